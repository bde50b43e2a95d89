// Clips in sync: one clock for all, frame by frame, and a wipe between two.
"use strict";
(() => {
  const videos = [...document.querySelectorAll("[data-compare] video")];
  const controls = document.getElementById("controls");
  if (videos.length < 2 || !controls) return;
  const [leader, ...others] = videos;
  const frame = 1 / Math.max(1, ...videos.map((video) => Number(video.dataset.fps) || 24));
  const part = (name) => controls.querySelector(`[data-do=${name}]`);
  const length = () => Math.max(...videos.map((video) => video.duration || 0));
  controls.hidden = false;
  for (const video of videos) {
    video.controls = false; // the ones below act on all
    video.loop = false;
  }

  let playing = false;
  let time = 0;
  let last = 0;

  function showAt(seconds) {
    time = Math.min(Math.max(0, seconds), length());
    for (const video of videos) video.currentTime = Math.min(time, Math.max(0, (video.duration || 0) - frame / 2));
    part("seek").value = String(Math.round((1000 * time) / (length() || 1)));
  }

  function step(by) {
    pause();
    showAt((Math.round(time / frame) + by) * frame);
  }

  function pause() {
    playing = false;
    part("play").textContent = "Play";
    for (const video of videos) video.pause();
  }

  function play() {
    if (time >= length() - frame) showAt(0);
    playing = true;
    last = performance.now();
    part("play").textContent = "Pause";
    for (const video of videos) video.play().catch(() => {});
    requestAnimationFrame(tick);
  }

  // The clock runs on; a clip that has drifted from it by two frames is set right.
  function tick(now) {
    if (!playing) return;
    time += (now - last) / 1000;
    last = now;
    if (time >= length()) {
      showAt(0);
      for (const video of videos) video.play().catch(() => {});
    }
    for (const video of videos)
      if (time < video.duration && Math.abs(video.currentTime - time) > 2 * frame) video.currentTime = time;
    part("seek").value = String(Math.round((1000 * time) / (length() || 1)));
    requestAnimationFrame(tick);
  }

  controls.addEventListener("click", ({ target }) => {
    const act = { play: () => (playing ? pause() : play()), back: () => step(-1), on: () => step(1) };
    act[target.dataset.do]?.();
  });
  part("seek").addEventListener("input", ({ target }) => {
    pause();
    showAt((Number(target.value) / 1000) * length());
  });
  part("wipe")?.addEventListener("input", ({ target }) => {
    const share = Number(target.value);
    document.querySelector("[data-compare]").classList.toggle("wiping", share > 0);
    others[0].style.clipPath = share > 0 ? `inset(0 0 0 ${100 - share}%)` : "";
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, button, a, textarea, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { " ": () => (playing ? pause() : play()), ",": () => step(-1), ".": () => step(1) }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  leader.addEventListener("loadeddata", () => showAt(0), { once: true });
})();
