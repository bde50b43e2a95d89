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

  // What has ended is shown whole: its video, its scores, its timeline.
  document.addEventListener("done", ({ target }) => target.matches?.("[data-reload]") && location.reload());

  // Arrows lead to the clip or page before and after, unless something else has the focus.
  document.addEventListener("keydown", (event) => {
    if (event.target !== document.body && event.target.id !== "main") return;
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    if (rel) document.querySelector(`a[rel=${rel}]`)?.click();
  });

  // A form of filters sends nothing for what is left empty, so that addresses stay short.
  document.addEventListener("formdata", ({ target, formData }) => {
    if (!target.matches(".filters")) return;
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
})();
