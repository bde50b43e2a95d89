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

  // A form of filters sends nothing for what is left empty, so that addresses stay short.
  document.addEventListener("formdata", ({ target, formData }) => {
    if (!target.matches(".filters")) return;
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
})();
