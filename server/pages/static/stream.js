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

  // Seconds until a lost connection is tried again: the first, and the longest.
  const FIRST_WAIT = 1;
  const LONGEST_WAIT = 15;
  // How long a session waits for a page that was left: it may only be loaded again.
  const LEFT_SECONDS = 30;
  // Close codes after which the session is still there: the connection broke, or the server stops.
  const LOST = [1001, 1006, 1012];
  const SWITCHES = {
    loop: "loop_generation_updated",
    enhance: "enhancement_updated",
    extend: "auto_extension_updated",
  };
  const ENDS = {
    segment_cap: "as many segments were made as one session may have",
    stop_requested: "it was stopped",
    error: "something failed",
  };

  let socket = null;
  let player = null;
  let pictures = null;
  let size = { width: 256, height: 256, fps: 24 };
  let paused = false;
  let sentAt = 0;
  let waitingForFirst = false;
  let fragments = 0;
  let sent = [];
  let unsent = [];
  // Prompts that were sent and whose segments have not begun; how many segments have, and how many the server had stored
  // when this page came to it.
  let asked = [];
  let begun = 0;
  let stored = 0;
  let comesBack = false;
  let beginsAnew = false;
  let segment = -1;
  let whole = -1;
  let wait = FIRST_WAIT;
  let retrying = null;

  const show = (id, text) => (part(id).textContent = text);
  const problem = (text) => show("problem", text);
  const send = (message) => socket.send(JSON.stringify(message));

  // The state in one word, for styles and tests, and in a sentence.
  function state(name, text) {
    part("stream").dataset.state = name;
    show("state", text);
    part("steps").hidden = name !== "making";
  }

  const isReady = () => ["ready", "making", "hold"].includes(part("stream").dataset.state);
  const ready = () =>
    state("ready", paused ? "Paused: the next segment waits until you go on." : "Ready for the next prompt.");

  function keep(value) {
    if (value) sessionStorage.setItem(KEPT_SESSION, JSON.stringify(value));
    else sessionStorage.removeItem(KEPT_SESSION);
  }

  const forget = (text) => asked.includes(text) && asked.splice(asked.indexOf(text), 1);

  // The session and what it may lack: prompts that wait are not stored with it.
  function remember(session_id) {
    const kept = JSON.parse(sessionStorage.getItem(KEPT_SESSION) ?? "null");
    const id = session_id ?? kept?.session_id;
    if (id) keep({ session_id: id, preset: new FormData(session).get("preset"), asked, begun });
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
      this.starts = new Map();
      this.source = new MediaSource();
      this.source.addEventListener("sourceopen", () => this.next(), { once: true });
      this.address = URL.createObjectURL(this.source);
      video.src = this.address;
    }

    begin(mime, number) {
      this.waiting.push({ mime, number });
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
        const { mime, data, end, number } = this.waiting[0];
        if (mime && this.rewind(number)) return;
        this.waiting.shift();
        if (end) this.source.endOfStream();
        else if (mime) this.prepare(mime);
        else this.buffer.appendBuffer(data);
      } catch (error) {
        problem(`The player cannot go on: ${error.message}`);
      }
    }

    // A segment that begins anew takes the place of what there was of it.
    rewind(number) {
      const ranges = this.buffer?.buffered;
      const end = ranges?.length ? ranges.end(ranges.length - 1) : 0;
      const start = this.starts.get(number);
      if (start === undefined) {
        this.starts.set(number, end);
        return false;
      }
      this.buffer.abort();
      this.buffer.timestampOffset = start;
      if (end <= start) return false;
      this.buffer.remove(start, Infinity);
      return true;
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
    queue_status: ({ position, queue_depth }) => {
      if (position) state("waiting", `Waiting for a GPU: place ${position} of ${queue_depth}.`);
    },
    gpu_assigned: ({ gpu_id, gpu_name, session_id, stored_segments }) => {
      const again = isReady();
      const returns = comesBack;
      comesBack = false;
      wait = FIRST_WAIT;
      show("gpu", gpu_name || String(gpu_id));
      part("pause").disabled = false;
      if (again) return;
      stored = stored_segments;
      asked.splice(0, Math.max(0, stored - begun));
      if (returns) unsent.unshift(...asked.splice(0));
      remember(session_id);
      ready();
      for (const text of unsent.splice(0)) ask(text);
      if (paused) send({ type: "generation_paused_updated", paused });
    },
    ltx2_stream_start: (message) => (size = message),
    ltx2_segment_start: ({ segment_idx, prompt: text, total_steps, source }) => {
      if (segment_idx >= stored && ["user", "enhanced"].includes(source)) asked.shift();
      begun = Math.max(begun, segment_idx + 1);
      remember();
      state("making", `Generating segment ${segment_idx + 1}.`);
      show("segment", `${segment_idx + 1}: ${text}`);
      part("steps").max = total_steps;
      part("steps").value = 0;
    },
    segment_waiting: ({ segment_idx, reason, message }) => {
      if (reason) state("hold", `Segment ${segment_idx + 1} is on hold: ${message}.`);
      else state("making", `Generating segment ${segment_idx + 1}.`);
    },
    step_complete: ({ segment_idx, step, total_steps }) => {
      part("steps").value = step;
      state("making", `Generating segment ${segment_idx + 1}: step ${step} of ${total_steps}.`);
    },
    media_init: ({ mime, mode, segment_idx }) => {
      const moving = mode === "av_fmp4";
      part("placeholder").hidden = true;
      canvas.hidden = moving;
      video.hidden = !moving;
      if (!moving) {
        pictures ??= new Pictures();
        if (segment_idx === segment) pictures.waiting = [];
      } else if (!MediaSource.isTypeSupported(mime)) problem(`This browser does not play ${mime}.`);
      else (player ??= new Player()).begin(mime, segment_idx);
      segment = segment_idx;
      part("sound").hidden = !mime.includes("mp4a");
    },
    media_segment_complete: ({ segment_idx }) => (whole = segment_idx),
    ltx2_segment_complete: ({ generation_time_ms, e2e_latency_ms }) => {
      ready();
      const seconds = [generation_time_ms, e2e_latency_ms].map((ms) => (ms / 1000).toFixed(2));
      show("made", `${seconds[0]} s; ${seconds[1]} s after it was asked for`);
    },
    ltx2_stream_complete: ({ reason }) => {
      keep(null);
      state("ended", `The session has ended: ${ENDS[reason] ?? reason}. The next prompt opens another.`);
      player?.finish();
    },
    session_timeout: ({ timeout_seconds }) => problem(`Nothing was made or asked for in ${timeout_seconds} s.`),
    error: ({ code, message, prompt: refused }) => {
      forget(refused);
      if (comesBack && code === "session_rejected") beginsAnew = true;
      else problem(`${message[0].toUpperCase()}${message.slice(1)}.`);
    },
  };

  function receive({ data }) {
    if (typeof data !== "string") {
      fragments += 1;
      show("fragments", String(fragments));
      if (waitingForFirst && sentAt) {
        waitingForFirst = false;
        show("first", `${((performance.now() - sentAt) / 1000).toFixed(2)} s`);
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
    if (comesBack) ({ asked = [], begun = 0 } = kept);
    send({
      type: "session_init_v2",
      ...(comesBack && { session_id: kept.session_id, after_segment: player || pictures ? whole : -1 }),
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
    part("pause").disabled = true;
    if (beginsAnew) {
      // The kept session has ended, or is another's.
      beginsAnew = false;
      keep(null);
      open();
      return;
    }
    const ended = part("stream").dataset.state === "ended";
    if (!ended && (LOST.includes(code) || reason === "client_left")) {
      comeBack();
      return;
    }
    part("open").disabled = false;
    part("stop").disabled = true;
    if (!ended) state("closed", `The session is closed: ${(reason || String(code)).replaceAll("_", " ")}.`);
  }

  // The session outlives its connection: it is gone on with, from the first segment that is not whole here.
  function comeBack() {
    state("lost", `The connection is lost. It is tried again in ${wait} s.`);
    retrying = setTimeout(connect, wait * 1000);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }

  function open() {
    for (const each of [player, pictures]) each?.close();
    player = pictures = null;
    fragments = 0;
    sent = [];
    asked = [];
    begun = stored = 0;
    paused = false;
    segment = whole = -1;
    wait = FIRST_WAIT;
    show("pause", "Pause");
    show("fragments", "0");
    problem("");
    connect();
  }

  function connect() {
    retrying = null;
    state("opening", "Opening a session.");
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    socket = new WebSocket(`${scheme}://${location.host}/v1/stream`);
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", opened);
    socket.addEventListener("message", receive);
    socket.addEventListener("close", closed);
    part("open").disabled = true;
    part("stop").disabled = false;
  }

  function ask(text) {
    send({ type: "segment_prompt_source", prompt: text });
    asked.push(text);
    remember();
    sent.push(text);
    if (session.elements.loop.checked) send({ type: "seed_prompts_updated", seed_prompts: sent });
  }

  // Nobody can tell a tab that is closed from one that is loaded again: the session waits a moment for its page.
  addEventListener("pagehide", () => {
    if (socket?.readyState === WebSocket.OPEN) send({ type: "leave_session", seconds: LEFT_SECONDS });
  });
  session.addEventListener("submit", (event) => {
    event.preventDefault();
    open();
  });
  session.addEventListener("change", ({ target }) => {
    if (!isReady() || !(target.name in SWITCHES)) return;
    if (target.name === "loop") send({ type: "seed_prompts_updated", seed_prompts: sent });
    send({ type: SWITCHES[target.name], enabled: target.checked });
  });
  prompt.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = new FormData(prompt).get("prompt").trim();
    if (!text) return;
    problem("");
    sentAt = performance.now();
    waitingForFirst = true;
    if (isReady()) ask(text);
    else {
      unsent.push(text);
      if (!socket && retrying === null) open();
    }
    prompt.elements.prompt.select();
  });
  part("stop").addEventListener("click", () => {
    unsent = [];
    if (socket?.readyState === WebSocket.OPEN) send({ type: "stop_session" });
    else {
      clearTimeout(retrying);
      retrying = null;
      part("open").disabled = false;
      part("stop").disabled = true;
      state("closed", "The connection is lost, and not tried again. The session ends by itself when its time is over.");
    }
  });
  part("pause").addEventListener("click", () => {
    paused = !paused;
    show("pause", paused ? "Go on" : "Pause");
    send({ type: "generation_paused_updated", paused });
    if (part("stream").dataset.state === "ready") ready();
  });
  part("sound").addEventListener("click", () => {
    video.muted = !video.muted;
    show("sound", video.muted ? "Turn sound on" : "Turn sound off");
  });
  video.addEventListener("timeupdate", () => show("played", `${video.currentTime.toFixed(1)} s`));
})();
