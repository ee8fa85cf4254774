"use strict";
// The contact sheet: twelve looping clips, of which those that are not flowing are marked. It shares
// all names with review.js, which is loaded before it.

let cells = []; // {item, clip, button, canvas} of the sheet
let marked = []; // items of the last sheet that are still to be answered in the single view
let onSheets = false; // whether the reviewer works through sheets, even while a marked item is shown
let sheetFrame = 0, sheetSince = 0;

function setContact(open) {
  $("contact").hidden = !open;
  $("single").hidden = open;
  $("contact-button").setAttribute("aria-pressed", String(onSheets));
  if (!open) cells = []; // clips are large
}

// Show the next sheet, or the given items once more.
async function openSheet(items = null) {
  marked = [];
  onSheets = true;
  const told = items ? { items, next: [] } : await ask(`api/easy?order=${order()}`).then(json);
  cells = told.items.map(makeCell);
  sheetFrame = 0; sheetSince = performance.now();
  const hasCalls = told.items.some((each) => each.call === "flowing");
  $("contact-what").textContent = cells.length
    ? `${hasCalls ? "Called flowing, lowest score first." : "The next in this order."} Mark those that are not flowing, then confirm the others.`
    : "Nothing is left for the contact sheet: no recording that you have not answered is called flowing.";
  $("cells").replaceChildren(...cells.map((cell) => cell.button));
  setContact(true);
  showMarks();
  if (cells.length) cells[0].button.focus({ preventScroll: true });
  // Not awaited: recordings can be marked while others are still fetched.
  Promise.all(cells.map(fill)).then(() => told.next.forEach((each) => warm(each.item).catch(() => {})));
}

// Bring a clip into the browser's cache, without the memory that the decoded frames need.
async function warm(item) {
  const about = await ask(`api/clip/${item}`).then(json);
  if (about.frames) await (await ask(`api/sheet/${item}`)).blob();
}

function makeCell(about, index) {
  const cell = { item: about.item, clip: null, button: document.createElement("button"), canvas: document.createElement("canvas") };
  const name = document.createElement("span"), badge = document.createElement("span");
  const key = index < 10 ? `${(index + 1) % 10}` : "";
  cell.button.type = "button";
  cell.button.setAttribute("aria-pressed", "false");
  if (key) cell.button.setAttribute("aria-keyshortcuts", key);
  cell.button.title = about.filename;
  name.className = "name";
  name.textContent = `${key ? `${key}  ` : ""}${about.filename}`;
  badge.className = "badge";
  badge.textContent = "not flowing";
  badge.setAttribute("aria-hidden", "true"); // the pressed button says it
  cell.canvas.setAttribute("aria-hidden", "true");
  cell.button.append(cell.canvas, name, badge);
  cell.button.addEventListener("click", () => toggleMark(cell));
  return cell;
}

// Fetch the clip of a cell. What cannot be shown must not be confirmed as flowing.
async function fill(cell) {
  try {
    cell.clip = await fetchClip(cell.item);
  } catch {
    cell.clip = { about: {}, sheet: null };
  }
  if (!cell.clip.sheet) cell.button.setAttribute("aria-pressed", "true");
  showMarks();
  drawSheet();
}

function isMarked(cell) { return cell.button.getAttribute("aria-pressed") === "true"; }

function toggleMark(cell) {
  if (busy || (cell.clip && !cell.clip.sheet)) return;
  cell.button.setAttribute("aria-pressed", String(!isMarked(cell)));
  showMarks();
}

function showMarks() {
  const others = cells.filter((cell) => !isMarked(cell)).length;
  const loading = cells.filter((cell) => !cell.clip).length;
  const key = document.createElement("kbd");
  key.textContent = "enter";
  $("confirm").disabled = !cells.length || loading > 0;
  $("confirm").replaceChildren(
    loading ? `Fetching ${loading} clips…` : others < cells.length ? `${others} flowing, then look at ${cells.length - others} ` : `All ${others} flowing `,
    ...(loading ? [] : [key]),
  );
  $("contact-said").textContent = others < cells.length ? `${cells.length - others} marked as not flowing` : "";
}

function drawSheet() {
  if ($("contact").hidden) return;
  for (const { canvas, clip } of cells) {
    paint(canvas, clip, clip && clip.sheet ? sheetFrame % clip.about.frames : 0, 1);
  }
}

async function confirmSheet() {
  if (busy || $("confirm").disabled) return;
  busy = true;
  const flowing = cells.filter((cell) => !isMarked(cell));
  const next = cells.filter(isMarked).map((cell) => cell.item);
  const seconds = (performance.now() - sheetSince) / 1000 / cells.length;
  try {
    if (flowing.length) {
      const answers = flowing.map(({ item }) => ({ item, answer: "flowing", token: newToken(), seconds }));
      const said = await save("api/answers", { answers, sheet: newToken() });
      showRecent(said.recent);
    }
    marked = next;
    refresh().catch(fail);
    await showNext();
  } catch (error) {
    warn(`Not saved: ${error.message}`);
  } finally {
    busy = false;
  }
}

function toggleSheets() {
  if (busy) return;
  if (!onSheets) { openSheet().catch(fail); return; }
  onSheets = false;
  marked = [];
  setContact(false);
  refresh().then(showNext).catch(fail);
}

// Handle a key of the sheet; return whether it was one.
function pressOnSheet(event) {
  const place = cells.findIndex((cell) => cell.button === document.activeElement);
  const columns = getComputedStyle($("cells")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  if (event.key in steps && cells.length) {
    const target = cells[place < 0 ? 0 : place + steps[event.key]];
    if (target) target.button.focus();
  } else if (event.key === "Enter" && (place >= 0 || !event.target.matches("button"))) {
    if (!event.repeat) confirmSheet();
  } else if (/^[0-9]$/.test(event.key)) {
    const cell = cells[(Number(event.key) + 9) % 10];
    if (cell && !event.repeat) toggleMark(cell);
  } else if (event.key === "Escape") {
    toggleSheets();
  } else {
    return false;
  }
  return true;
}

function startSheets() {
  $("contact-button").addEventListener("click", toggleSheets);
  $("contact-close").addEventListener("click", toggleSheets);
  $("contact-undo").addEventListener("click", undo);
  $("contact-play").addEventListener("click", () => setPlaying(!playing));
  $("confirm").addEventListener("click", confirmSheet);
}
