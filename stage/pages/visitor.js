// The visitor's page: one button, then the picture. The server's state ("you") decides what is shown.
import { follow, post } from "./stream.js";
import { Microphone, Sending, obstacle } from "./voice.js";
import { say } from "./words.js";
import { Ring } from "./ring.js";
import { drawRough } from "./rough.js";

const TAP = 400; // ms; a shorter press starts a recording that the next one ends
const IDLE = 30000; // ms without a touch after which a picture makes room for the next visitor
const $ = (id) => document.getElementById(id);

let you = null; // the server's state
let sending = null; // the recording that is being made or sent
let pressed = 0; // when the button went down (timeStamp of the event), 0: it is up
let tapped = false; // the recording goes on until the next press
let talking = false; // sound is being recorded
let broken = false; // no connection
let complaint = ""; // code of a problem that only this page knows
let idle;

const ring = new Ring($("ring"));
const microphone = new Microphone((level) => ring.level(level), microphoneDied);

// --- what is shown ---------------------------------------------------------------------------------------------------
function render() {
  if (!you) return;
  const state = talking ? "speaking" : sending && you.state !== "painting" ? "waiting" : you.state;
  document.body.dataset.state = state;
  const home = state === "picture";
  const growing = state === "painting" && !$("rough").hidden;
  $("frame").hidden = !(home || growing);
  $("home").hidden = !home;
  $("message").textContent = message(state);
  $("label").textContent = talking ? (tapped ? say("stop") : "") : state === "ready" ? say("hold") : "";
  $("speak").disabled = !talking && (you.paused || !["ready", "speaking"].includes(state) || !!obstacleHere());
  $("hint").textContent = state === "ready" && !$("speak").disabled ? say("hint") : "";
  $("kept").textContent = say(you.kept ? "kept" : "discarded");
  $("choice").hidden = state !== "ready" || you.paused || (you.prompts.length < 2 && !you.free);
  $("round").hidden = home || growing;
  if (home) showPicture();
  ring.mode(state);
  const arriving = home && !$("rough").hidden;
  microphone.rest(!talking && (arriving || ["waiting", "painting"].includes(state)));
}

function message(state) {
  if (broken) return say("connection");
  if (complaint) return say(complaint);
  if (state === "ready" && obstacleHere()) return say(obstacleHere());
  if (state === "ready" && you.paused) return say("paused");
  if (state === "ready" && you.problem) return say(you.problem);
  if (state === "ready" && !you.ready) return say("loading");
  if (state === "speaking") return say("speak");
  if (state === "waiting" && !you.ready) return say("loading");
  if (state === "waiting") return you.place > 1 ? say("waiting", you) : say("painting");
  if (state === "painting") return you.advice ? say(you.advice) : say("painting");
  return "";
}

function obstacleHere() {
  return you.machine ? "" : obstacle();
}

function showPicture() {
  const address = `/image/${you.picture}`;
  if ($("picture").getAttribute("src") !== address) {
    $("picture").src = address;
    $("save").href = address;
    $("qr-box").hidden = !you.public;
    if (you.public) $("qr").src = `/p/${you.picture}/qr.svg`;
    $("again").focus({ preventScroll: true });
    $("picture").decode().catch(() => {}).then(pictureShown); // until then, the last preview is above it
  }
  $("picture").alt = $("caption").textContent = you.prompt;
}

function pictureShown() {
  if (you.state !== "picture") return;
  $("rough").hidden = true;
  render();
}

function clearPicture() {
  $("rough").hidden = true;
  $("picture").removeAttribute("src");
  $("caption").textContent = "";
  $("save").removeAttribute("href");
  $("qr").removeAttribute("src");
}

function showPrompts() {
  const chosen = prompt();
  $("legend").textContent = say("prompts");
  $("free-label").textContent = say("free");
  $("free").hidden = !you.free;
  $("prompts").querySelectorAll("label").forEach((label) => label.remove());
  for (const text of you.prompts) {
    const label = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "prompt", value: text });
    radio.checked = text === chosen;
    label.append(radio, document.createTextNode(text));
    $("prompts").append(label);
  }
  if (!document.querySelector("input[name=prompt]:checked")) {
    document.querySelector("input[name=prompt]").checked = true;
  }
}

function prompt() {
  const own = you?.free ? $("text").value.trim() : "";
  return own || document.querySelector("input[name=prompt]:checked")?.value || "";
}

// --- the server ------------------------------------------------------------------------------------------------------
let promptsShown = "";
follow("visitor", {
  you(state) {
    const before = you;
    you = state;
    const offered = JSON.stringify([you.prompts, you.free]);
    if (offered !== promptsShown) showPrompts();
    promptsShown = offered;
    if (you.state === "speaking" && !sending) {
      post(`/recordings/${you.recording}/drop`, { problem: "interrupted" }); // of this page before it was loaded again
    }
    if (["ready", "waiting", "speaking"].includes(you.state)) clearPicture();
    if (you.preview) preview(you.preview);
    if (you.state === "picture" && before?.state !== "picture") stayAwhile();
    if (before?.paused && !you.paused) complaint = "";
    render();
  },
  preview,
  progress([step, steps]) {
    if ($("frame").hidden) ring.progress(step / steps);
    else $("frame").style.setProperty("--done", step / steps);
  },
  wave(bars) {
    if (you?.machine && talking) ring.level(Math.max(...bars, 0) / 100);
  },
  lost() {
    broken = true;
    render();
  },
  back() {
    broken = false;
    render();
  },
});

async function preview(address) {
  if (!(await drawRough($("rough"), address, () => you?.state === "painting"))) return;
  if (!$("frame").hidden) return; // all else is there since the first preview
  $("rough").hidden = false;
  $("rough").ariaLabel = say("painting");
  $("caption").textContent = you.prompt;
  render();
}

// --- speaking --------------------------------------------------------------------------------------------------------
async function begin() {
  if (sending || $("speak").disabled) return;
  complaint = "";
  stayAwhile();
  if (!you.machine && !microphone.open) {
    const held = pressed;
    await openMicrophone();
    if (!microphone.open || !pressed || pressed !== held) {
      tapped = false;
      return render(); // the press was spent on the question of the browser
    }
  }
  talking = true;
  ring.start(you.seconds);
  sending = new Sending(prompt(), you.machine ? 0 : microphone.rate, (lost) => {
    broken = lost;
    render();
  });
  if (!you.machine) {
    microphone.begin((samples, last) => {
      sending?.add(samples, last);
      if (last) finished();
    }, you.seconds);
  }
  render();
  const mine = sending;
  const verdict = await mine.finish();
  if (sending === mine) {
    if (talking) microphone.cancel();
    finished();
    sending = null;
    complaint = verdict.problem && verdict.problem !== you.problem ? known(verdict.problem) : "";
    render();
  }
}

function known(code) {
  return code === "unknown" ? "interrupted" : code;
}

function end() {
  tapped = false;
  if (!talking) return;
  if (you.machine) {
    sending.add(new Int16Array(0), true);
    finished();
  } else {
    microphone.end();
  }
}

function finished() {
  talking = tapped = false;
  ring.stop();
  render();
}

async function openMicrophone() {
  try {
    await microphone.start();
    complaint = "";
  } catch (error) {
    complaint = error.name === "NotAllowedError" ? "denied" : "none";
  }
  render();
}

function microphoneDied() {
  if (talking) {
    sending.drop("microphone");
    sending = null;
    finished();
  }
  complaint = "microphone";
  render();
  reopen();
}

async function reopen() {
  await new Promise((resolve) => setTimeout(resolve, 1000));
  if (microphone.open) return;
  try {
    await microphone.start();
  } catch {
    reopen();
  }
}

// --- hands and keys --------------------------------------------------------------------------------------------------
function down({ timeStamp }) {
  if (talking) return tapped ? end() : undefined;
  pressed = timeStamp;
  begin();
}

function up({ timeStamp }) {
  if (!pressed) return;
  const tap = timeStamp - pressed < TAP;
  pressed = 0;
  if (!talking) return;
  if (tap) {
    tapped = true;
    render();
  } else {
    end();
  }
}

$("speak").addEventListener("pointerdown", (event) => {
  if (event.button) return;
  $("speak").setPointerCapture(event.pointerId);
  down(event);
});
$("speak").addEventListener("pointerup", up);
$("speak").addEventListener("pointercancel", up);
$("speak").addEventListener("contextmenu", (event) => event.preventDefault());
$("speak").addEventListener("click", (event) => {
  if (event.detail || event.pointerType) return; // a screen reader presses without a pointer
  if (talking) end();
  else {
    down(event);
    up(event);
  }
});

const isSpace = ({ code, target }) => code === "Space" && ![$("text"), $("again"), $("save")].includes(target);
addEventListener("keydown", (event) => {
  if (!isSpace(event)) return;
  event.preventDefault();
  if (!event.repeat) down(event);
});
addEventListener("keyup", (event) => {
  if (!isSpace(event)) return;
  event.preventDefault();
  up(event);
});
$("choice").addEventListener("submit", (event) => event.preventDefault());

// --- back to the start -----------------------------------------------------------------------------------------------
function again() {
  complaint = "";
  $("text").value = "";
  post("/again").catch(() => {});
}

function stayAwhile() {
  clearTimeout(idle);
  idle = setTimeout(() => {
    if (!talking && !sending && !["waiting", "painting"].includes(you?.state)) {
      document.querySelector("input[name=prompt]")?.click();
      document.activeElement?.blur();
      again();
    } else {
      stayAwhile();
    }
  }, IDLE);
}

$("again").addEventListener("click", again);
for (const name of ["pointerdown", "keydown"]) addEventListener(name, stayAwhile);
$("again").textContent = say("again");
$("save").textContent = say("save");
$("qr-text").textContent = $("qr").alt = say("take");
$("speak").setAttribute("aria-label", say("hold"));

// where the person allowed the microphone before, it is opened at once, so that the first syllable is not lost
async function openEarly() {
  try {
    const { state } = await navigator.permissions.query({ name: "microphone" });
    if (state === "granted" && !you?.machine) await openMicrophone();
  } catch {
    // this browser does not tell: the first press opens it
  }
}
if (!obstacle()) openEarly();
