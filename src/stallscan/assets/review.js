"use strict";
// One page without a framework. It fetches clips before they are needed, shows them on a canvas,
// and shows the next one as soon as the server has saved an answer. The contact sheet is in sheet.js.

const KEYS = { s: "stalled", 1: "stalled", f: "flowing", 0: "flowing", u: "unsure", x: "unscorable", b: "broken" };
const WORDS = { stalled: "Stalled", flowing: "Flowing", unsure: "Unsure", unscorable: "Cannot score", broken: "Broken" };
const SHOWN_KEYS = { stalled: "s", flowing: "f", unsure: "u", unscorable: "x", broken: "b" };
const RATES = [1, 2, 4, 8, 12, 15, 20, 30, 45, 60]; // frames a second
const CONTRASTS = [1, 1.5, 2, 3];
const PATIENCE_MS = [500, 1000, 2000, 4000, 8000]; // between tries to save an answer
const PAUSE_S = 120; // longer ones are no work
const LOOK_AFTER_MS = 300; // what the net looked at takes a second, so not for clips that are passed by
const KEPT = 16; // clips, some 20 MB each when decoded
const $ = (id) => document.getElementById(id);

const canvas = $("clip");
const clips = new Map(); // item -> promise of {about, sheet}
let times = []; // that the last answers to single recordings took, s
let state = null; // what the server said last
let shown = null; // {about, sheet} on the canvas
let ahead = []; // items that come next
let correcting = false; // whether a past item is shown
let me = ""; // whom this tab answers for: another tab may have another name
let busy = false; // whether an answer is being saved, until the next recording is shown
let latest = null; // promise of the newest refresh
let looking = null; // AbortController of what the net looked at
let shows = 0; // calls of show, of which the newest counts
let playing = true, frame = 0, rate = 15, last = 0, since = 0, outlined = true;

// The token of a page that other computers may open: part of the printed address, kept in this tab.
// Not a cookie, which browsers send to every port of a computer.
function readToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("stallscan-token", given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem("stallscan-token");
}

const token = readToken();

// Every request says what this page shows: of which run its items are, and whom it answers for.
function ask(path, options = {}, reviewer = me) {
  const headers = { ...options.headers };
  if (token) headers["x-stallscan-token"] = token;
  if (state) headers["x-stallscan-run"] = state.run;
  if (reviewer) headers["x-stallscan-reviewer"] = encodeURIComponent(reviewer);
  return fetch(path, { ...options, headers });
}

function post(path, body, reviewer = me) {
  const headers = { "content-type": "application/json", "x-stallscan": "1" };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) }, reviewer);
}

// Not crypto.randomUUID, which is missing where a page is served to another machine without https.
function newToken() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function json(response) {
  if (!response.ok) throw new Error((await response.text()).slice(0, 200) || response.statusText);
  return response.json();
}

// Save what must not be lost: again and again, with the same token, until the server has said yes.
async function save(path, body) {
  const reviewer = me; // another name may be chosen before it is saved
  for (let tries = 0; ; tries++) {
    let reason = "The server does not answer.";
    try {
      const response = await post(path, body, reviewer);
      if (response.status < 500) { warn(""); return json(response); }
      reason = `The server cannot save: ${(await response.text()).trim().slice(0, 300) || response.statusText}.`;
    } catch {
      // The server cannot be reached.
    }
    warn(`${reason} Your answer is kept here and sent again; do not close the page.`);
    await new Promise((done) => setTimeout(done, PATIENCE_MS[Math.min(tries, PATIENCE_MS.length - 1)]));
  }
}

function warn(text) { $("alert").textContent = text; }

function fetchClip(item) {
  if (!clips.has(item)) {
    const about = ask(`api/clip/${item}`).then(json);
    const sheet = about.then((told) => told.frames ? loadImage(`api/sheet/${item}`) : null);
    const evidence = about.then((told) => told.evidence ? loadImage(`api/evidence/${item}`) : null);
    const clip = Promise.all([about, sheet, evidence]).then(([a, s, e]) => ({ about: a, sheet: s, evidence: e }));
    clip.catch(() => clips.delete(item));
    clips.set(item, clip);
    if (clips.size > KEPT) clips.delete(clips.keys().next().value);
  }
  return clips.get(item);
}

async function loadImage(address, options = {}) {
  const response = await ask(address, options);
  if (!response.ok) throw new Error(response.statusText);
  const image = new Image();
  image.src = URL.createObjectURL(await response.blob());
  try {
    await image.decode();
  } finally {
    URL.revokeObjectURL(image.src); // the image keeps its content
  }
  return image;
}

// Show an image in place of the one with this id.
function put(id, image) {
  image.alt = $(id).alt;
  image.id = id;
  $(id).replaceWith(image);
}

// What comes first in each order, for its name in the list.
const ORDERS = {
  uncertain: "near the threshold, with likely stalls",
  stalled: "highest score first",
  random: "the same for everyone",
  unseen: "not yet answered by anyone",
  disagreed: "reviewers differ",
};

function order() {
  return $("order").value || new URLSearchParams(location.search).get("order") || "uncertain";
}

// Ask what comes next. The next answer may be given before this returns, so only the newest counts.
function refresh() {
  const mine = ask(`api/queue?order=${order()}&within=${$("within").value}`).then(json)
    .then((told) => latest === mine ? takeOver(told) : latest);
  latest = mine;
  return mine;
}

function takeOver(told) {
  state = told;
  me = told.reviewer;
  if (!$("order").options.length) {
    for (const name of state.orders) $("order").add(new Option(`${name}: ${ORDERS[name]}`, name, false, name === state.order));
  }
  $("folder").textContent = state.folder;
  $("who").textContent = state.reviewer ? `Reviewer: ${state.reviewer}` : "Name";
  showRecent(state.recent);
  ahead = state.items.map((each) => each.item);
  if (!onSheets) ahead.forEach((item) => fetchClip(item).catch(() => {}));
  showProgress();
}

function showProgress() {
  const worked = times.reduce((sum, each) => sum + each, 0) / 60;
  const rateNow = worked > 0.1 && times.length > 1 && !onSheets ? times.length / worked : 0;
  const parts = [`${state.answered} of ${state.total} answered by you`, `${state.left} in this order`];
  if (state.missing) parts.push(`${state.missing} not found: give their folder with --recordings`);
  if (rateNow) parts.push(`${Math.round(rateNow * 60)} an hour`, `${Math.ceil(state.left / rateNow)} min left`);
  $("progress").textContent = parts.join(" · ");
  showCheck(state.check);
  showOwn(state.own);
}

function percent(share) { return `${(100 * share).toFixed(share > 0.1 && share < 0.9 ? 0 : 1)} %`; }

function interval([value, low, high], isComplete = false) {
  if (isComplete) return `${percent(value)} (all of them checked)`;
  return `${percent(value)} (95 % interval ${percent(low)} to ${percent(high)})`;
}

// The random sample: how many calls are still to check, and then how many of them are wrong.
function showCheck(check) {
  $("check").hidden = !check;
  if (!check) return;
  const said = (name) => interval(check[name], check.complete.includes(name));
  const parts = [`${check.checked} of ${check.needed} calls checked, in the random order.`];
  if (check.wrong) {
    parts.push(`You overturned ${said("wrong")} of the calls`);
    if (check.missed) parts.push(`; of those called flowing ${said("missed")}`);
    if (check.alarms) parts.push(`; of those called stalled ${said("alarms")}`);
    parts.push(".");
    if (check.other) parts.push(` ${check.other} more have no call, or you answered neither flowing nor stalled.`);
  }
  $("check-said").textContent = ` ${parts[0]} ${parts.slice(1).join("")}`;
}

// The reviewer's own figures on known recordings that are mixed in.
function showOwn(own) {
  const parts = Object.entries(own || {}).filter(([, said]) => said)
    .map(([name, said]) => `${name} ${interval(said.share)}, ${said.right} of ${said.of}`);
  $("own").textContent = !own ? "" : parts.length
    ? `You, on known recordings: ${parts.join("; ")}.`
    : "Known recordings are mixed in. Your own sensitivity and specificity are shown when you have answered 5 of a kind.";
}

function row(tag, texts) {
  const line = document.createElement("tr");
  line.append(...texts.map((text) => Object.assign(document.createElement(tag), { textContent: text })));
  return line;
}

async function showPeople() {
  const said = await ask("api/reviewers").then(json);
  $("people-rows").replaceChildren(...said.reviewers.map((each) =>
    row("td", [each.name, each.answered, each.an_hour === null ? "–" : Math.round(each.an_hour)])));
  $("pair-rows").replaceChildren(...said.pairs.map((each) => row("td", [
    `${each.first} and ${each.second}`, each.both, each.agreement === null ? "–" : percent(each.agreement),
    each.kappa === null ? "not defined" : `${each.kappa.toFixed(2)} (${each.low.toFixed(2)} to ${each.high.toFixed(2)})`,
  ])));
  $("pairs").hidden = !said.pairs.length;
  $("people").showModal();
}

async function show(item, isPast = false) {
  const number = ++shows;
  correcting = isPast;
  if (item === undefined) { showNothing(); return; }
  let clip;
  const late = setTimeout(() => { $("note").textContent = "Fetching the clip…"; }, 300);
  try {
    clip = await fetchClip(item);
  } catch (error) {
    warn(`This clip could not be fetched (${error.message}). Reload the page.`);
    if (number === shows) { shown = null; allow([]); } // not the one before, which was answered
    return;
  } finally {
    clearTimeout(late);
  }
  if (number !== shows) return; // something else was to be shown meanwhile
  setContact(false);
  shown = clip;
  const about = clip.about;
  frame = 0; last = 0; since = performance.now();
  $("frame").max = Math.max(about.frames - 1, 0);
  $("name").textContent = about.filename;
  $("note").textContent = about.note;
  canvas.setAttribute("aria-label", `Clip of ${about.filename}, ${about.frames} frames`);
  const facts = [];
  if (about.call === "review") facts.push("left to you by the model");
  else if (about.call) facts.push(`called ${about.call}`);
  if (about.score !== null && about.score !== undefined) facts.push(`score ${about.score.toFixed(3)}`);
  if (about.reason) facts.push(about.reason);
  if (marked.includes(item)) facts.push(`marked on the contact sheet, ${marked.length} to answer`);
  if (correcting) facts.push("answered before: a new answer corrects it");
  $("facts").textContent = facts.join(" · ");
  $("evidence-figure").hidden = !clip.evidence;
  if (clip.evidence) put("evidence", clip.evidence);
  allow(about.answers);
  showLooked(about);
  showFrame();
}

// Offer the answers that are possible: nobody can tell whether blood flows in what cannot be shown.
function allow(answers) {
  for (const button of $("choices").children) button.disabled = !answers.includes(button.className);
}

// Not fetched beforehand; it appears when it is there.
function showLooked(about) {
  forgetLooked();
  if (!about.looked) return;
  looking = new AbortController();
  const { signal } = looking;
  setTimeout(() => {
    if (signal.aborted) return;
    loadImage(`api/looked/${about.item}`, { signal }).then((image) => {
      if (signal.aborted) return;
      put("looked", image);
      $("looked-figure").hidden = false;
    }).catch(() => {}); // nothing is known of this one
  }, LOOK_AFTER_MS);
}

function forgetLooked() {
  if (looking) looking.abort();
  $("looked-figure").hidden = true;
}

function showNothing() {
  setContact(false);
  shown = null;
  draw();
  $("name").textContent = "Nothing is left in this order";
  $("facts").textContent = "Choose another order, or export the answers with: stallscan labels";
  $("note").textContent = "";
  $("evidence-figure").hidden = true;
  forgetLooked();
  $("frame").max = $("frame").value = 0;
  $("place").textContent = "";
  canvas.setAttribute("aria-label", "No clip");
  allow([]);
}

async function showNext() {
  if (marked.length) await show(marked[0]);
  else if (onSheets) await openSheet();
  else await show(ahead[0]);
}

async function answer(choice) {
  if (!shown || busy || !shown.about.answers.includes(choice)) return;
  busy = true;
  const item = shown.about.item;
  const wasPast = correcting;
  const body = { item, answer: choice, token: newToken(), seconds: (performance.now() - since) / 1000 };
  try {
    const said = await save("api/answer", body);
    showRecent(said.recent);
    if (body.seconds <= PAUSE_S) times = [...times.slice(-59), body.seconds];
    if (!wasPast) ahead = ahead.filter((each) => each !== item);
    marked = marked.filter((each) => each !== item);
    const fresh = refresh();
    if (!marked.length && !onSheets && !ahead.length) await fresh;
    else fresh.then(followQueue).catch(fail);
    await showNext();
  } catch (error) {
    warn(`Not saved: ${error.message}`);
  } finally {
    busy = false;
  }
}

// Another tab may have answered what is shown.
function followQueue() {
  if (busy || onSheets || correcting) return;
  if (shown ? ahead[0] !== shown.about.item : ahead.length) return showNext();
}

async function undo() {
  if (busy) return;
  busy = true;
  try {
    const said = await save("api/undo", { token: newToken() });
    showRecent(said.recent);
    await refresh();
    if (said.items.length > 1) await openSheet(said.items);
    else if (said.items.length) await show(said.items[0].item);
  } catch (error) {
    warn(`Not undone: ${error.message}`);
  } finally {
    busy = false;
  }
}

function showRecent(recent) {
  $("recent").replaceChildren(...recent.map((given) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = given.answer;
    button.textContent = `${WORDS[given.answer]}: ${given.filename}`;
    button.disabled = given.item === null;
    button.addEventListener("click", () => show(given.item, true));
    const line = document.createElement("li");
    line.append(button);
    return line;
  }));
}

function draw() { paint(canvas, shown, frame, Number($("zoom").value)); }

// Draw a frame of a clip, or nothing without one.
function paint(canvas, clip, frame, zoomed) {
  const context = canvas.getContext("2d");
  const box = canvas.getBoundingClientRect();
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.max(Math.round(box.width * density), 1);
  canvas.height = Math.max(Math.round(box.height * density), 1);
  if (!clip || !clip.sheet) return;
  const { width, height, columns, outline } = clip.about;
  const scale = Math.min(canvas.width / width, canvas.height / height) * zoomed;
  context.imageSmoothingEnabled = false;
  context.setTransform(scale, 0, 0, scale, (canvas.width - width * scale) / 2, (canvas.height - height * scale) / 2);
  context.filter = `contrast(${$("contrast").value}) brightness(${Math.sqrt($("contrast").value)})`;
  context.drawImage(clip.sheet, (frame % columns) * width, Math.floor(frame / columns) * height, width, height, 0, 0, width, height);
  context.filter = "none";
  if (outlined) {
    context.strokeStyle = "#ff6600";
    context.lineWidth = 2 * density / scale;
    for (const line of outline) {
      context.beginPath();
      line.forEach(([column, row], index) => index ? context.lineTo(column, row) : context.moveTo(column, row));
      context.closePath();
      context.stroke();
    }
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
}

function showFrame() {
  draw();
  if (!shown || !shown.sheet) return;
  $("frame").value = frame;
  $("place").textContent = `${frame + 1} / ${shown.about.frames}`;
}

function tick(now) {
  if (!$("contact").hidden) {
    if (playing && now - last >= 1000 / rate) { last = now; sheetFrame++; drawSheet(); }
  } else if (playing && shown && shown.sheet && now - last >= 1000 / rate) {
    if (last) frame = (frame + 1) % shown.about.frames;
    last = now;
    showFrame();
  }
  requestAnimationFrame(tick);
}

function step(by) {
  if (!shown || !shown.about.frames) return;
  setPlaying(false);
  frame = (frame + by + shown.about.frames) % shown.about.frames;
  showFrame();
}

function setPlaying(value) {
  playing = value;
  for (const id of ["play", "contact-play"]) $(id).textContent = playing ? "Pause" : "Play";
}

function setRate(by) {
  rate = RATES[Math.min(Math.max(RATES.indexOf(rate) + by, 0), RATES.length - 1)];
  $("rate").textContent = `${rate}/s`;
}

function toggleOutline() {
  outlined = !outlined;
  $("outline").setAttribute("aria-pressed", String(outlined));
  drawAll();
}

function zoom(by) {
  $("zoom").value = Number($("zoom").value) + by;
  draw();
}

function nextContrast() {
  const place = CONTRASTS.indexOf(Number($("contrast").value));
  $("contrast").value = CONTRASTS[(place + 1) % CONTRASTS.length];
  drawAll();
}

function drawAll() {
  draw();
  drawSheet();
}

const COMMANDS = {
  " ": () => setPlaying(!playing), ArrowLeft: () => step(-1), ArrowRight: () => step(1),
  "[": () => setRate(-1), "]": () => setRate(1), o: toggleOutline, z: undo, c: nextContrast,
  "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(-0.5), "?": () => $("help").showModal(),
  g: () => toggleSheets(), r: () => showPeople().catch(fail),
};

const REPEATED = new Set(["ArrowLeft", "ArrowRight", "+", "=", "-"]); // while the key is held down

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const isNamed = event.key.length > 1 || event.key === " "; // Enter, ArrowLeft and the like
  const key = isNamed ? event.key : event.key.toLowerCase(); // Caps Lock may be on
  if (event.target.matches("input[type=range]") && key.startsWith("Arrow")) return;
  // A list opens and moves by named keys. A letter in it would choose another order, not answer.
  if (event.target.matches("select") && isNamed) return;
  if (!$("contact").hidden && pressOnSheet(event)) { event.preventDefault(); return; }
  // Space and Enter on a focused button press that button.
  if ([" ", "Enter"].includes(key) && event.target.matches("button")) return;
  if (event.target.matches("select")) event.preventDefault();
  if (key in KEYS && $("contact").hidden) {
    event.preventDefault();
    if (!event.repeat) answer(KEYS[key]);
  } else if (key in COMMANDS && !(key.startsWith("Arrow") && !$("contact").hidden)) {
    event.preventDefault();
    if (!event.repeat || REPEATED.has(key)) COMMANDS[key]();
  }
});

// Before the button hears of it. By keyboard, the detail is 0.
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !event.detail || button.closest("#cells, dialog")) return;
  button.blur(); // Space plays the next recording; it would press the button again
  // The second click of a double click would answer a recording that nobody has looked at.
  if (event.detail > 1 && button.matches("#choices *, #confirm, #undo, #contact-undo")) event.stopPropagation();
}, true);

function start() {
  for (const [choice, words] of Object.entries(WORDS)) {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = SHOWN_KEYS[choice];
    button.type = "button";
    button.className = choice;
    button.setAttribute("aria-keyshortcuts", SHOWN_KEYS[choice]);
    button.append(`${words} `, key);
    button.addEventListener("click", () => answer(choice));
    $("choices").append(button);
  }
  $("back").addEventListener("click", () => step(-1));
  $("on").addEventListener("click", () => step(1));
  $("play").addEventListener("click", () => setPlaying(!playing));
  $("frame").addEventListener("input", () => { setPlaying(false); frame = Number($("frame").value); showFrame(); });
  $("slower").addEventListener("click", () => setRate(-1));
  $("faster").addEventListener("click", () => setRate(1));
  $("outline").addEventListener("click", toggleOutline);
  $("zoom").addEventListener("input", draw);
  $("contrast").addEventListener("input", drawAll);
  $("undo").addEventListener("click", undo);
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("people-button").addEventListener("click", () => showPeople().catch(fail));
  for (const button of document.querySelectorAll("dialog .close")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  $("order").addEventListener("change", () => { marked = []; refresh().then(showNext).catch(fail); });
  $("within").addEventListener("change", () => refresh().catch(fail));
  $("who").addEventListener("click", askName);
  $("rename").addEventListener("close", () => {
    if ($("rename").returnValue !== "ok") {
      if (!state.reviewer) askName();
      return;
    }
    marked = [];
    times = [];
    post("api/reviewer", { name: $("new-name").value }).then(json)
      .then((told) => { me = told.reviewer; return refresh(); })
      .catch((error) => warn(`This name cannot be used: ${error.message}`)).then(begin);
  });
  window.addEventListener("resize", drawAll);
  startSheets();
  window.addEventListener("beforeunload", (event) => { if (busy) event.preventDefault(); });
  setPlaying(!matchMedia("(prefers-reduced-motion: reduce)").matches);
  setRate(0);
  requestAnimationFrame(tick);
  refresh().then(begin).catch(fail);
}

// Show the first recording, to whoever has a name.
function begin() {
  if (state.reviewer) return showNext().catch(fail);
  askName();
}

function askName() {
  $("new-name").value = state.reviewer;
  $("keep-name").hidden = !state.reviewer;
  $("rename").returnValue = "";
  $("rename").showModal();
}

function fail(error) { warn(`The page could not be loaded (${error.message}). Reload it.`); }

document.addEventListener("DOMContentLoaded", start); // after sheet.js
