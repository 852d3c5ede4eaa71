// The microphone of this browser, kept open, and a recording that is sent to the server in pieces while it is made.
import { post } from "./stream.js";

const BEFORE = 0.3, AFTER = 0.1; // seconds recorded before the press and after the release
const DEAD = 1.5; // seconds of exact zeros, or without any sound, after which a microphone counts as gone
const COLD = 4; // seconds in which a microphone may wake up
const RETRY = 400; // ms between two tries to send
const GIVE_UP = 20000; // ms without a connection

// Why this page can have no microphone: "insecure", "none" or "".
export function obstacle() {
  if (!window.isSecureContext) return "insecure";
  return navigator.mediaDevices?.getUserMedia && window.AudioWorkletNode ? "" : "none";
}

export class Microphone {
  constructor(onLevel, onDead) {
    this.onLevel = onLevel;
    this.onDead = onDead;
    this.onSamples = () => {};
    this.open = false;
  }

  // Opens it; throws DOMException, "NotAllowedError" where the person or the browser refuses.
  async start() {
    this.close();
    const off = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: off });
    this.context = new AudioContext();
    await this.context.resume();
    await this.context.audioWorklet.addModule("/assets/recorder-worklet.js");
    this.node = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0, channelCount: 2 });
    this.node.port.onmessage = ({ data }) => this.message(data);
    this.listen();
    const [track] = this.stream.getAudioTracks();
    track.onended = () => this.dead();
    this.opened = this.heard = performance.now();
    this.watchdog = setInterval(() => this.watch(), 250);
    this.open = true;
    this.resting = false;
  }

  // Connects a branch of the stream, of which nothing is left once it is stopped: Chromium goes on to feed sources that
  // were only disconnected.
  listen() {
    this.branch = this.stream.clone();
    this.source = this.context.createMediaStreamSource(this.branch);
    this.source.connect(this.node);
  }

  ignore() {
    this.source?.disconnect();
    this.branch?.getTracks().forEach((track) => track.stop());
  }

  get rate() {
    return this.context.sampleRate;
  }

  message(data) {
    this.heard = performance.now();
    if (data.samples) this.onSamples(data.samples, data.last);
    if (data.silence === undefined) return;
    if (data.silence >= DEAD && this.heard - this.opened > COLD * 1000) this.dead();
    else this.onLevel(data.level);
  }

  // While no recording can begin, its sound is not processed: that leaves the processor to the painter. The stream stays
  // open. A new source begins with the sound of its time; one that waited gives what it has kept, and lags from then on.
  rest(resting) {
    if (!this.open || resting === this.resting) return;
    this.resting = resting;
    this.opened = this.heard = performance.now();
    if (resting) {
      this.node.port.postMessage({ name: "forget" });
      this.ignore();
      this.context.suspend().catch(() => {});
    } else {
      this.listen();
      this.context.resume().catch(() => {});
    }
  }

  watch() {
    if (this.resting) return;
    const now = performance.now();
    if (this.context.state === "suspended") this.context.resume().catch(() => {});
    if (now - this.heard > DEAD * 1000 && now - this.opened > COLD * 1000) this.dead();
  }

  dead() {
    if (!this.open) return;
    this.close();
    this.onDead();
  }

  begin(onSamples, most) {
    if (this.context.state !== "running") this.context.resume().catch(() => {}); // a browser may want a hand for that
    this.onSamples = onSamples;
    this.node.port.postMessage({ name: "start", before: BEFORE, after: AFTER, most });
  }

  end() {
    this.node?.port.postMessage({ name: "stop", after: AFTER });
  }

  cancel() {
    this.onSamples = () => {};
    this.node?.port.postMessage({ name: "cancel" });
  }

  close() {
    this.open = false;
    clearInterval(this.watchdog);
    this.ignore();
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close().catch(() => {});
    this.stream = this.branch = this.context = this.node = this.source = null;
  }
}

// A recording on its way. Pieces that could not be sent wait, and are sent again.
export class Sending {
  constructor(prompt, rate, onLost) {
    this.rate = rate;
    this.onLost = onLost;
    this.pieces = [];
    this.first = 0; // number of pieces[0]
    this.cancelled = false;
    this.started = post("/recordings", { prompt });
    this.news = () => {};
  }

  add(samples, last) {
    this.pieces.push({ body: wav(samples, this.rate), last });
    this.news();
  }

  // Sends until the last piece has arrived; returns the server's verdict, {problem, advice}.
  async finish() {
    const begun = await this.started.catch(() => ({ problem: "connection" }));
    if (!begun.recording) return begun;
    this.id = begun.recording;
    let good = performance.now();
    while (!this.cancelled) {
      if (!this.pieces.length) {
        await new Promise((resolve) => (this.news = resolve));
        continue;
      }
      const { body, last } = this.pieces[0];
      try {
        const answer = await fetch(`/recordings/${this.id}/${this.first}${last ? "?last=1" : ""}`, {
          method: "POST",
          headers: { "content-type": "audio/wav" },
          body,
          signal: AbortSignal.timeout(8000),
        });
        const verdict = await answer.json();
        if (answer.status === 429) throw new Error("too often");
        if (!answer.ok || last) return verdict;
        good = performance.now();
        this.onLost(false);
        this.pieces.shift();
        this.first++;
      } catch {
        this.onLost(true);
        if (performance.now() - good > GIVE_UP) return { problem: "connection" };
        await new Promise((resolve) => setTimeout(resolve, RETRY));
      }
    }
    return { problem: "" };
  }

  drop(problem) {
    this.cancelled = true;
    this.news();
    this.started.then(({ recording }) => recording && post(`/recordings/${recording}/drop`, { problem })).catch(() => {});
  }
}

// A wav file of 16-bit mono samples.
function wav(samples, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + samples.byteLength, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rate, true);
  header.setUint32(28, rate * 2, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, samples.byteLength, true);
  return new Blob([header, samples], { type: "audio/wav" });
}
