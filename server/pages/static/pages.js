// What the pages do besides gallery.js; without it they are read and their forms work all the same.
"use strict";
(() => {
  // Times in the reader's own zone.
  const show = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  function localise(root) {
    for (const time of root.querySelectorAll("time[datetime]:not([data-local])")) {
      time.dataset.local = "";
      time.title = time.textContent;
      time.textContent = show.format(new Date(time.dateTime));
    }
  }
  localise(document);
  document.addEventListener("htmx:after:swap", () => localise(document));

  // Why a picture or video does not come: gallery.js says that it does not.
  async function explain(media) {
    const place = media.closest("[data-card], section, figure");
    const answer = await fetch(media.currentSrc || media.src, { headers: { range: "bytes=0-0" } }).catch(() => null);
    const words = {
      401: "The session has ended: sign in again",
      404: "Swept: its files are no longer kept",
      503: "The store is away for now",
    };
    const text = answer ? words[answer.status] : "The server does not answer";
    if (!text || !place) return;
    const note = place.querySelector(".missing") ?? document.createElement("p");
    note.classList.add("missing");
    note.textContent = text;
    if (!note.isConnected) media.after(note);
  }
  const explained = "img.poster, video.clip, [data-compare] video";
  document.addEventListener("error", ({ target }) => target.matches?.(explained) && explain(target), true);
  for (const image of document.querySelectorAll("img.poster[src]"))
    if (image.complete && !image.naturalWidth) explain(image);
  for (const video of document.querySelectorAll(explained)) if (video.error) explain(video);

  // What has ended is shown whole: its video, its scores, its timeline.
  document.addEventListener("done", ({ target }) => target.matches?.("[data-reload]") && location.reload());

  // Arrows lead to the clip or page before and after, unless something else has the focus.
  document.addEventListener("keydown", (event) => {
    if (event.target !== document.body && event.target.id !== "main") return;
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    if (rel) document.querySelector(`a[rel=${rel}]`)?.click();
  });

  // A file that is dropped on the page of prompts is read into them; beside them, too, where the browser would open it.
  const prompts = document.querySelector("textarea[data-drop]");
  document.addEventListener("dragover", (event) => {
    if (prompts && event.dataTransfer.types.includes("Files")) event.preventDefault();
  });
  document.addEventListener("drop", async (event) => {
    const [file] = event.dataTransfer.files;
    if (!prompts || !file) return; // text, which the browser takes itself
    if (event.target.matches?.("input[type=file]")) return;
    event.preventDefault();
    prompts.value = await file.text();
    const ending = file.name.split(".").pop().toLowerCase().replace("yml", "yaml");
    const format = prompts.form.elements.format;
    if ([...format.options].some((option) => option.value === ending)) format.value = ending;
  });

  // Stars on a wall are stored without leaving it; the pressed star, pressed again, takes them away.
  async function send(form, body) {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(body), redirect: "manual" });
    if (answer.type !== "opaqueredirect") throw new Error(`the server answered ${answer.status}`);
  }

  document.addEventListener("submit", async (event) => {
    const button = event.submitter;
    if (event.target.id !== "rate" || !button?.matches(".stars button")) return;
    event.preventDefault();
    const [job, stars] = button.value.split(" ");
    const buttons = [...button.parentElement.querySelectorAll("button")];
    try {
      await send(event.target, new FormData(event.target, button));
    } catch {
      return event.target.submit(); // the page that answers says why
    }
    buttons.forEach((other, index) => {
      other.setAttribute("aria-pressed", String(index < Number(stars)));
      other.value = `${job} ${index + 1 === Number(stars) ? 0 : index + 1}`;
    });
  });

  // Digits give the card with the focus its stars, and a comparison its vote.
  document.addEventListener("keydown", (event) => {
    if (!/^[0-5]$/.test(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, textarea, select")) return;
    const stars = event.target.closest("[data-card]")?.querySelectorAll(".stars button");
    const pressed = [...(stars ?? [])].filter((button) => button.getAttribute("aria-pressed") === "true").length;
    const wanted = event.key === "0" ? pressed : Number(event.key);
    const button = stars?.length
      ? wanted > 0 && (event.key === "0" || wanted !== pressed) && stars[wanted - 1]
      : document.querySelector(`#vote [data-key="${event.key}"]`);
    if (!button) return;
    event.preventDefault();
    button.click();
  });

  // A note is written on the wall itself.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("[data-note]");
    const form = document.getElementById("rate");
    if (!link || !form || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const card = link.closest("[data-card]");
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-label", "Note");
    dialog.innerHTML =
      '<form method="dialog"><label>Your note <textarea rows="4" maxlength="4000"></textarea></label>' +
      '<p class="bar"><button value="store">Store</button> <button value="">Cancel</button></p></form>';
    const area = dialog.querySelector("textarea");
    area.value = link.dataset.note;
    dialog.addEventListener("close", async () => {
      dialog.remove();
      if (dialog.returnValue !== "store") return;
      const token = form.elements.token.value;
      const action = link.href.replace("#rating", "/rate");
      await send({ action }, { token, note: area.value }).then(
        () => noted(card, link, area.value.trim()),
        () => location.assign(link.href),
      );
    });
    document.body.append(dialog);
    dialog.showModal();
  });

  function noted(card, link, text) {
    link.dataset.note = text;
    card.querySelector(".noted")?.remove();
    if (!text) return;
    const note = document.createElement("p");
    note.className = "noted";
    note.append(document.createElement("bdi"));
    note.firstChild.textContent = text;
    card.querySelector(".facts").after(note);
  }

  // A form of filters sends nothing for what is left empty, so that addresses stay short.
  document.addEventListener("formdata", ({ target, formData }) => {
    if (!target.matches(".filters")) return;
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
})();
