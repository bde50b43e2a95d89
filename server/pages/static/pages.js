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

  // A file that is dropped on the prompts is read into them.
  const prompts = document.querySelector("textarea[data-drop]");
  prompts?.addEventListener("dragover", (event) => event.preventDefault());
  prompts?.addEventListener("drop", async (event) => {
    const [file] = event.dataTransfer.files;
    if (!file) return; // text, which the browser takes itself
    event.preventDefault();
    prompts.value = await file.text();
    const ending = file.name.split(".").pop().toLowerCase().replace("yml", "yaml");
    const format = prompts.form.elements.format;
    if ([...format.options].some((option) => option.value === ending)) format.value = ending;
  });

  // A form of filters sends nothing for what is left empty, so that addresses stay short.
  document.addEventListener("formdata", ({ target, formData }) => {
    if (!target.matches(".filters")) return;
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
})();
