// A session of /v1/stream: what is sent, what comes, and a MediaSource that plays it.
"use strict";
(() => {
  const part = (id) => document.getElementById(id);
  if (!part("stream")) return;
  const session = part("session");
  const prompt = part("prompt");
  const video = part("video");
  const canvas = part("pictures");
  const KEPT_SECONDS = 30;
  const KEPT_MESSAGES = 200;
  // The tab's session outlives the page: after a reload the same one goes on.
  const KEPT_SESSION = "vgen.stream.session";

  let socket = null;
  let player = null;
  let pictures = null;
  let size = { width: 256, height: 256, fps: 24 };
  let paused = false;
  let sentAt = 0;
  let waitingForFirst = false;
  let fragments = 0;
  let sent = [];
  let comesBack = false;
  let beginsAnew = false;

  const show = (id, text) => (part(id).textContent = text);
  const problem = (text) => show("problem", text);
  const send = (message) => socket.send(JSON.stringify(message));

  function keep(value) {
    if (value) sessionStorage.setItem(KEPT_SESSION, JSON.stringify(value));
    else sessionStorage.removeItem(KEPT_SESSION);
  }

  function note(text) {
    const item = document.createElement("li");
    item.textContent = text;
    const list = part("messages");
    list.append(item);
    while (list.children.length > KEPT_MESSAGES) list.firstChild.remove();
  }

  // Fragments wait here until the SourceBuffer takes the next one. Each segment has its own initialisation and begins
  // at 0: in the mode "sequence" the buffer puts one after the other.
  class Player {
    constructor() {
      this.waiting = [];
      this.buffer = null;
      this.source = new MediaSource();
      this.source.addEventListener("sourceopen", () => this.next(), { once: true });
      this.address = URL.createObjectURL(this.source);
      video.src = this.address;
    }

    begin(mime) {
      this.waiting.push({ mime });
      this.next();
    }

    append(data) {
      this.waiting.push({ data });
      this.next();
    }

    finish() {
      this.waiting.push({ end: true });
      this.next();
    }

    next() {
      if (this.source.readyState !== "open" || this.buffer?.updating || !this.waiting.length) return;
      try {
        if (this.drop()) return;
        const { mime, data, end } = this.waiting.shift();
        if (end) this.source.endOfStream();
        else if (mime) this.prepare(mime);
        else this.buffer.appendBuffer(data);
      } catch (error) {
        problem(`The player cannot go on: ${error.message}`);
      }
    }

    prepare(mime) {
      if (!this.buffer) {
        this.buffer = this.source.addSourceBuffer(mime);
        this.buffer.mode = "sequence";
        this.buffer.addEventListener("updateend", () => this.play());
        this.buffer.addEventListener("error", () => problem("The player does not take this video."));
      } else if (mime !== this.mime) {
        this.buffer.changeType(mime);
      }
      this.mime = mime;
      this.next();
    }

    // What was played long ago makes room.
    drop() {
      const ranges = this.buffer?.buffered;
      const until = video.currentTime - KEPT_SECONDS;
      if (!ranges?.length || ranges.start(0) + KEPT_SECONDS > until) return false;
      this.buffer.remove(0, until);
      return true;
    }

    play() {
      if (video.paused && this.buffer.buffered.length) video.play().catch((error) => note(error.message));
      this.next();
    }

    close() {
      URL.revokeObjectURL(this.address);
      video.removeAttribute("src");
      video.load();
    }
  }

  // One picture after the other, at the session's rate.
  class Pictures {
    constructor() {
      this.waiting = [];
      this.shown = 0;
      canvas.width = size.width;
      canvas.height = size.height;
      this.timer = setInterval(() => this.draw(), 1000 / size.fps);
    }

    async draw() {
      const data = this.waiting.shift();
      if (!data) return;
      const bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
      canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      bitmap.close();
      this.shown += 1;
      show("played", `${(this.shown / size.fps).toFixed(1)} s`);
    }

    close() {
      clearInterval(this.timer);
    }
  }

  const actions = {
    queue_status: ({ position, queue_depth }) => position && show("state", `waiting: ${position} of ${queue_depth}`),
    gpu_assigned: ({ gpu_id, gpu_name, session_id }) => {
      comesBack = false;
      keep({ session_id, preset: new FormData(session).get("preset") });
      show("state", "ready");
      show("gpu", gpu_name || String(gpu_id));
      part("send").disabled = part("pause").disabled = false;
    },
    ltx2_stream_start: (message) => (size = message),
    ltx2_segment_start: ({ segment_idx, prompt: text, total_steps }) => {
      show("state", "making");
      show("segment", `${segment_idx}: ${text}`);
      part("steps").max = total_steps;
      part("steps").value = 0;
    },
    segment_waiting: ({ reason, message }) => show("state", reason ? `on hold: ${message}` : "making"),
    step_complete: ({ step, total_steps }) => {
      part("steps").value = step;
      show("step", `${step} of ${total_steps}`);
    },
    media_init: ({ mime, mode }) => {
      const moving = mode === "av_fmp4";
      part("placeholder").hidden = true;
      canvas.hidden = moving;
      video.hidden = !moving;
      if (!moving) pictures ??= new Pictures();
      else if (!MediaSource.isTypeSupported(mime)) problem(`This browser does not play ${mime}.`);
      else (player ??= new Player()).begin(mime);
    },
    ltx2_segment_complete: ({ generation_time_ms, e2e_latency_ms }) => {
      show("state", "ready");
      show("made", `${(generation_time_ms / 1000).toFixed(2)} s (${(e2e_latency_ms / 1000).toFixed(2)} s with waiting)`);
    },
    ltx2_stream_complete: ({ reason }) => {
      keep(null);
      show("state", `ended: ${reason.replace("_", " ")}`);
      player?.finish();
    },
    session_timeout: ({ timeout_seconds }) => problem(`Nothing was asked for in ${timeout_seconds} s.`),
    error: ({ code, message }) => {
      problem(`${code}: ${message}`);
      if (comesBack && code === "session_rejected") beginsAnew = true;
    },
  };

  function receive({ data }) {
    if (typeof data !== "string") {
      fragments += 1;
      show("fragments", String(fragments));
      if (waitingForFirst && sentAt) {
        waitingForFirst = false;
        show("first", `${Math.round(performance.now() - sentAt)} ms`);
      }
      if (pictures) pictures.waiting.push(data);
      else player?.append(data);
      return;
    }
    const message = JSON.parse(data);
    note(data.slice(0, 300));
    actions[message.type]?.(message);
  }

  function opened() {
    const values = new FormData(session);
    const kept = JSON.parse(sessionStorage.getItem(KEPT_SESSION) ?? "null");
    comesBack = kept?.preset === values.get("preset");
    send({
      type: "session_init_v2",
      ...(comesBack && { session_id: kept.session_id }),
      preset: values.get("preset"),
      stream_mode: values.get("mode"),
      silent_audio: values.has("silent_audio"),
      loop_generation_enabled: values.has("loop"),
      enhancement_enabled: values.has("enhance"),
      auto_extension_enabled: values.has("extend"),
    });
  }

  function closed({ code, reason }) {
    socket = null;
    if (beginsAnew) {
      // The kept session has ended, or is another's.
      beginsAnew = false;
      keep(null);
      open();
      return;
    }
    part("open").disabled = false;
    for (const id of ["send", "stop", "pause"]) part(id).disabled = true;
    if (!part("state").textContent.startsWith("ended")) show("state", `closed: ${reason || code}`);
  }

  function open() {
    for (const each of [player, pictures]) each?.close();
    player = pictures = null;
    fragments = 0;
    sent = [];
    paused = false;
    problem("");
    show("state", "opening");
    show("fragments", "0");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}/v1/stream`);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", opened);
    socket.addEventListener("message", receive);
    socket.addEventListener("close", closed);
    socket.addEventListener("error", () => problem("The connection failed."));
    part("open").disabled = true;
    part("stop").disabled = false;
  }

  session.addEventListener("submit", (event) => {
    event.preventDefault();
    open();
  });
  prompt.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = new FormData(prompt).get("prompt").trim();
    if (!socket || !text) return;
    problem("");
    sentAt = performance.now();
    waitingForFirst = true;
    send({ type: "segment_prompt_source", prompt: text });
    sent.push(text);
    if (session.elements.loop.checked) send({ type: "seed_prompts_updated", seed_prompts: sent });
    prompt.elements.prompt.select();
  });
  part("stop").addEventListener("click", () => socket && send({ type: "stop_session" }));
  part("pause").addEventListener("click", () => {
    paused = !paused;
    part("pause").textContent = paused ? "Go on" : "Pause";
    send({ type: "generation_paused_updated", paused });
  });
  part("sound").addEventListener("click", () => {
    video.muted = !video.muted;
    part("sound").textContent = video.muted ? "Sound on" : "Sound off";
  });
  video.addEventListener("timeupdate", () => show("played", `${video.currentTime.toFixed(1)} s`));
})();
