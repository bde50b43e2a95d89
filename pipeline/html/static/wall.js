// A static wall: filters, order and pages over the records of clips.js, which comes after the page is there; details in a
// dialog. Where the reader is stands in the address's fragment.
"use strict";
(() => {
  const wall = document.getElementById("wall");
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const pages = document.getElementById("pages");
  const dialog = document.getElementById("details");
  const blank = document.getElementById("blank").content.firstElementChild;
  const size = Number(wall.dataset.size);
  let records = [];
  let shown = []; // what the filters leave, in order
  let page = Number(wall.dataset.page);

  window.vgenClips = (all) => {
    records = all;
    for (const [index, record] of records.entries()) record.at = index;
    const wanted = new URLSearchParams(location.hash.slice(1));
    if ([...wanted.keys()].some((name) => name === "page" || form.elements[name])) restore(wanted);
    else if ([...new FormData(form)].some(([name, value]) => value && name !== "metric")) show(1); // typed meanwhile
    else shown = records;
    wall.dataset.ready = "true";
  };
  form.hidden = Number(wall.dataset.total) < 2;

  // Where the reader is
  function restore(wanted) {
    for (const [name, value] of wanted) if (form.elements[name]) form.elements[name].value = value;
    show(Number(wanted.get("page")) || 1);
  }

  function remember() {
    const values = [...new FormData(form)].filter(([name, value]) => value && !(name === "metric" && !ranked()));
    const query = new URLSearchParams(values);
    if (page > 1) query.set("page", String(page));
    history.replaceState(null, "", `#${query}`);
  }

  // Filters and order
  const ranked = () => form.elements.least?.value || ["highest", "lowest"].includes(form.elements.order.value);

  function textOf(record) {
    record.text ??= [record.prompt, record.used, ...(record.prompts ?? []), record.id, record.custom, record.seed,
      record.preset, record.reason, ...Object.entries(record.labels ?? {}).flat()].join("\n").toLowerCase();
    return record.text;
  }

  function filtered() {
    const value = (name) => form.elements[name]?.value ?? "";
    const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
    const [metric, least] = [value("metric"), value("least")];
    const cut = value("label").indexOf("=");
    const [label, wanted] = [value("label").slice(0, cut), value("label").slice(cut + 1)];
    const kept = records.filter(
      (record) =>
        (!value("state") || record.state === value("state")) &&
        (!value("preset") || record.preset === value("preset")) &&
        (!label || record.labels?.[label] === wanted) &&
        (!least || record.scores?.[metric] >= Number(least)) &&
        words.every((word) => textOf(record).includes(word)),
    );
    const score = (record, none) => record.scores?.[metric] ?? none;
    const orders = {
      file: (a, b) => (a.id < b.id ? -1 : 1),
      newest: (a, b) => (a.id > b.id ? -1 : 1),
      highest: (a, b) => score(b, -Infinity) - score(a, -Infinity) || a.at - b.at,
      lowest: (a, b) => score(a, Infinity) - score(b, Infinity) || a.at - b.at,
    };
    return orders[value("order")] ? kept.sort(orders[value("order")]) : kept;
  }

  // Cards
  function cardOf(record) {
    const card = blank.cloneNode(true);
    const metric = form.elements.metric?.value;
    const texts = {
      ...record,
      seed: `seed ${record.seed}`,
      state: record.state.replaceAll("_", " "),
      score: record.scores?.[metric] === undefined ? "" : `${metric} ${Number(record.scores[metric].toPrecision(4))}`,
      labels: "",
    };
    for (const slot of card.querySelectorAll("[data-slot]")) slot.textContent = texts[slot.dataset.slot] ?? "";
    for (const [name, value] of Object.entries(record.labels ?? {})) {
      const label = document.createElement("span");
      label.className = "label";
      label.append(document.createElement("bdi"));
      label.firstChild.textContent = `${name}=${value}`;
      card.querySelector("[data-slot=labels]").append(label);
    }
    card.id = `clip-${record.id}`;
    card.className = `card state-${record.state}`;
    if (record.video) card.dataset.video = record.video;
    if (record.strip) Object.assign(card.dataset, { strip: record.strip, frames: record.strips });
    const frame = card.querySelector(".frame");
    frame.href = record.video ?? `#clip-${record.id}`;
    frame.querySelector("[data-slot=name]").textContent = record.prompt;
    card.querySelector(".prompt").title = record.prompt;
    if (record.poster) card.querySelector(".poster").src = record.poster;
    else card.querySelector(".poster").remove();
    if (!record.missing) card.querySelector(".missing").remove();
    if (record.reason) card.querySelector(".reason").title = record.reason;
    else card.querySelector(".reason").remove();
    if (!record.command) card.querySelector(".command").remove();
    return card;
  }

  function show(wanted) {
    if (!records.length) return; // they are not there yet
    shown = filtered();
    const last = Math.max(1, Math.ceil(shown.length / size));
    page = Math.min(last, Math.max(1, wanted));
    const from = (page - 1) * size;
    const cards = shown.slice(from, from + size);
    wall.replaceChildren(...cards.map(cardOf));
    count.textContent =
      cards.length === 0 ? "No clip fits these filters."
      : last === 1 ? `${shown.length} of ${records.length} clips`
      : `Clips ${from + 1} to ${from + cards.length} of ${shown.length}`;
    pages.replaceChildren(...(last > 1 ? links(last) : []));
    remember();
  }

  function links(last) {
    return Array.from({ length: last }, (_, index) => {
      const link = document.createElement("a");
      link.textContent = String(index + 1);
      link.href = "#";
      if (index + 1 === page) link.setAttribute("aria-current", "page");
      link.addEventListener("click", (event) => {
        event.preventDefault();
        show(index + 1);
        scrollTo(0, 0);
      });
      return link;
    });
  }

  form.addEventListener("input", () => show(1));
  form.addEventListener("reset", () => setTimeout(() => show(1)));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => {
    form.reset();
    restore(new URLSearchParams(location.hash.slice(1)));
  });

  // Details
  function element(tag, text, properties = {}) {
    const made = Object.assign(document.createElement(tag), properties);
    if (text !== undefined) made.append(text);
    return made;
  }

  function facts(record) {
    const list = element("dl", undefined, { className: "figures" });
    const scores = Object.entries(record.scores ?? {}).map(([name, value]) => `${name} ${Number(value.toPrecision(5))}`);
    const labels = Object.entries(record.labels ?? {}).map(([name, value]) => `${name}=${value}`);
    const pairs = [
      ["state", record.state.replaceAll("_", " ")], ["seed", record.seed], ["preset", record.preset],
      ["size", record.size], ["frames", record.frames], ["job", record.id], ["your id", record.custom],
      ["scores", scores.join(", ")], ["labels", labels.join(", ")],
    ];
    for (const [name, value] of pairs) {
      if (!value) continue;
      const pair = element("div");
      pair.append(element("dt", name), element("dd", element("bdi", String(value))));
      list.append(pair);
    }
    return list;
  }

  function command(text) {
    const line = element("p", undefined, { className: "command" });
    const button = element("button", "Copy", { type: "button", hidden: true });
    button.dataset.copy = "";
    line.append(element("code", text), " ", button);
    return line;
  }

  function open(index) {
    const record = shown[index];
    if (!record) return;
    const body = element("div");
    if (record.video)
      body.append(element("video", undefined, {
        src: record.video, poster: record.poster ?? "", controls: true, loop: true, muted: true, playsInline: true,
        autoplay: !matchMedia("(prefers-reduced-motion: reduce)").matches,
      }));
    else body.append(element("p", record.missing ?? "", { className: "note" }));
    body.append(element("p", element("bdi", record.prompt), { className: "text" }));
    const others = record.prompts?.length > 1 ? record.prompts : record.used ? [record.used] : [];
    if (others.length) body.append(element("h3", others.length > 1 ? "Its segments' prompts" : "The prompt that the model was given"));
    for (const text of others) body.append(element("p", element("bdi", text), { className: "text" }));
    if (record.reason) body.append(element("p", element("bdi", record.reason), { className: "bad" }));
    body.append(facts(record));
    for (const text of new Set([record.command, `vgen show ${record.id}`, `vgen rerun ${record.id}`]))
      if (text) body.append(command(text));
    const bar = element("p", undefined, { className: "bar" });
    for (const [kind, text] of [["video", "Video file"], ["sidecar", "Sidecar"]])
      if (record[kind]) bar.append(element("a", text, { href: record[kind] }));
    const [before, after, close] = ["Previous", "Next", "Close"].map((text) => element("button", text, { type: "button" }));
    before.disabled = index === 0;
    after.disabled = index === shown.length - 1;
    before.addEventListener("click", () => open(index - 1));
    after.addEventListener("click", () => open(index + 1));
    close.addEventListener("click", () => dialog.close());
    bar.append(before, after, close);
    body.append(bar);
    release();
    dialog.replaceChildren(body);
    dialog.dataset.at = String(index);
    if (!dialog.open) dialog.showModal();
    close.focus();
  }

  function release() {
    const video = dialog.querySelector("video");
    if (!video) return;
    video.pause();
    video.removeAttribute("src");
    video.load();
  }

  dialog.addEventListener("close", release);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.target.matches("video")) return;
    event.preventDefault();
    open(Number(dialog.dataset.at) + by);
  });
  wall.addEventListener("click", (event) => {
    const frame = event.target.closest(".frame");
    if (!frame || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const id = frame.closest("[data-card]").id.slice("clip-".length);
    const index = shown.findIndex((record) => record.id === id);
    if (index < 0) return; // the records are not there yet: the link leads to the video
    event.preventDefault();
    open(index);
  });

  addEventListener("load", () => document.head.append(Object.assign(document.createElement("script"), { src: "clips.js" })));
})();
