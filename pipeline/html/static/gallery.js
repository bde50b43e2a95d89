// Cards come alive: the clip plays after a moment under the pointer or with the focus, its strip is scrubbed along
// the lower edge, and keys do the same. One clip is decoded at a time. Cards that come later are served too.
"use strict";
(() => {
  const DELAY_MS = 250;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let waiting = 0;
  let playing = null; // {card, video}

  const cardOf = (node) => (node instanceof Element ? node.closest("[data-card]") : null);

  function stop() {
    clearTimeout(waiting);
    if (!playing) return;
    const { video } = playing;
    playing = null;
    video.pause();
    video.removeAttribute("src"); // the decoder is given back
    video.load();
    video.remove();
  }

  function play(card) {
    if (playing?.card === card || !card.dataset.video) return;
    stop();
    leaveStrip(card);
    const video = document.createElement("video");
    Object.assign(video, { muted: true, loop: true, playsInline: true, preload: "auto", tabIndex: -1 });
    video.setAttribute("aria-hidden", "true");
    video.addEventListener("error", () => video.remove());
    video.src = card.dataset.video;
    card.querySelector(".frame").append(video);
    playing = { card, video };
    video.play().catch(() => {}); // of a card that was left meanwhile
  }

  function playSoon(card) {
    clearTimeout(waiting);
    if (!calm.matches) waiting = setTimeout(() => play(card), DELAY_MS);
  }

  // The strip: its frames stand side by side in one picture; shown is one of them.
  function showFrame(card, index) {
    const frames = Number(card.dataset.frames);
    if (!card.dataset.strip || !(frames > 1)) return;
    stop();
    const at = Math.min(frames - 1, Math.max(0, index));
    let strip = card.querySelector(".strip");
    if (!strip) {
      strip = document.createElement("span");
      strip.className = "strip";
      card.querySelector(".frame").append(strip);
      const picture = new Image();
      picture.addEventListener("load", () => fit(card, strip, picture, frames));
      picture.src = card.dataset.strip;
    }
    strip.dataset.at = String(at);
    strip.style.backgroundPosition = `${(100 * at) / (frames - 1)}% 0`;
    card.querySelector(".scrub")?.style.setProperty("--at", `${(100 * (at + 1)) / frames}%`);
  }

  function fit(card, strip, picture, frames) {
    const box = card.querySelector(".frame").getBoundingClientRect();
    const scale = Math.min(box.width / (picture.naturalWidth / frames), box.height / picture.naturalHeight);
    strip.style.width = `${(picture.naturalWidth / frames) * scale}px`;
    strip.style.height = `${picture.naturalHeight * scale}px`;
    strip.style.backgroundImage = `url(${JSON.stringify(picture.src)})`;
    strip.style.backgroundSize = `${frames * 100}% 100%`;
  }

  function leaveStrip(card) {
    card.querySelector(".strip")?.remove();
    card.querySelector(".scrub")?.style.removeProperty("--at");
  }

  function addScrub(card) {
    if (!card.dataset.strip || card.querySelector(".scrub")) return;
    const scrub = document.createElement("span");
    scrub.className = "scrub";
    card.querySelector(".frame").append(scrub);
    scrub.addEventListener("pointermove", (event) => {
      const box = scrub.getBoundingClientRect();
      showFrame(card, Math.floor(((event.clientX - box.left) / box.width) * Number(card.dataset.frames)));
    });
    scrub.addEventListener("pointerleave", () => {
      leaveStrip(card);
      if (card.matches(":hover")) playSoon(card);
    });
  }

  function leave(card) {
    clearTimeout(waiting);
    if (playing?.card === card) stop();
    leaveStrip(card);
  }

  document.addEventListener("pointerover", (event) => {
    const card = cardOf(event.target);
    if (!card || event.pointerType === "touch" || card === cardOf(event.relatedTarget)) return;
    addScrub(card);
    playSoon(card);
  });
  document.addEventListener("pointerout", (event) => {
    const card = cardOf(event.target);
    if (card && card !== cardOf(event.relatedTarget)) leave(card);
  });
  document.addEventListener("focusin", (event) => {
    const card = cardOf(event.target);
    if (card && event.target.matches(".frame:focus-visible")) playSoon(card);
  });
  document.addEventListener("focusout", (event) => {
    const card = cardOf(event.target);
    if (card && card !== cardOf(event.relatedTarget)) leave(card);
  });
  document.addEventListener("visibilitychange", () => document.hidden && stop());

  // Space plays, comma and full stop go from frame to frame, arrows from card to card.
  const keys = {
    " ": (card) => (playing?.card === card ? stop() : play(card)),
    ",": (card) => showFrame(card, Number(card.querySelector(".strip")?.dataset.at ?? 1) - 1),
    ".": (card) => showFrame(card, Number(card.querySelector(".strip")?.dataset.at ?? -1) + 1),
    ArrowLeft: (card) => step(card, -1),
    ArrowRight: (card) => step(card, 1),
    ArrowUp: (card) => step(card, -columns(card)),
    ArrowDown: (card) => step(card, columns(card)),
  };

  const neighbours = (card) => [...card.parentElement.querySelectorAll(":scope > [data-card]")];

  function columns(card) {
    const cards = neighbours(card);
    const first = cards[0].offsetTop;
    const below = cards.findIndex((other) => other.offsetTop > first);
    return below < 0 ? cards.length : below;
  }

  function step(card, by) {
    const cards = neighbours(card);
    for (let at = cards.indexOf(card) + by; at >= 0 && at < cards.length; at += by) {
      const link = cards[at].querySelector(".frame[href]");
      if (link) return link.focus();
    }
  }

  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.(".frame") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act(cardOf(event.target));
  });

  // A poster that does not come (it was swept, its address expired, the store is away) says so.
  function noteMissing(image) {
    const note = document.createElement("span");
    note.className = "missing";
    note.textContent = "The picture is not there (swept, expired, or its store is away)";
    image.replaceWith(note);
  }
  document.addEventListener("error", ({ target }) => target.matches?.("img.poster") && noteMissing(target), true);
  for (const image of document.querySelectorAll("img.poster[src]"))
    if (image.complete && !image.naturalWidth) noteMissing(image);

  // Commands are copied by a button, where the browser allows it.
  function showCopy(root) {
    if (navigator.clipboard) for (const button of root.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    const text = button?.parentElement.querySelector("code")?.textContent;
    if (!text) return;
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  showCopy(document);
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) for (const node of addedNodes) if (node instanceof Element) showCopy(node);
    if (playing && !playing.card.isConnected) stop();
  }).observe(document.body, { childList: true, subtree: true });
})();
