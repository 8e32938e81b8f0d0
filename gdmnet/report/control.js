// Mouse, touch, keys and buttons of the viewer.

const pointers = new Map();  // touches and the pressed mouse, by their number
let drag = null;  // what was there when the drag began

function listenTo(cell) {
  const { canvas } = cell;
  const at = (event) => [event.offsetX * devicePixelRatio, event.offsetY * devicePixelRatio];
  const under = (event) => voxelUnder(...at(event), cell.place, cell.plane, shown.view.shape, shown.at);
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
    event.preventDefault();  // no selection, no autoscroll
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    chosen.active = cell.plane;
    drag = {
      cell, mode: modeOf(event), from: middle(), apart: distance(), moved: pointers.size > 1,
      window: shown.windows[cell.panel.window].slice(), centre: shown.centre.slice(), zoom: shown.zoom, at: shown.at.slice(),
    };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) {
      if (event.pointerType === "mouse") showValues(under(event) || shown.at);
      return;
    }
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const [x, y] = middle(), dx = x - drag.from[0], dy = y - drag.from[1];
    drag.moved = drag.moved || Math.hypot(dx, dy) > 4;
    if (drag.moved) DRAGS[drag.mode](dx, dy);
  });
  const end = (event) => {
    const click = pointers.size === 1 && drag && !drag.moved && event.type === "pointerup" && event.button === 0;
    pointers.delete(event.pointerId);
    if (drag) drag.mode = "rest";  // the second finger has left
    const voxel = click && under(event);
    if (voxel) {
      shown.at = voxel;
      refresh();
    }
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => shown && showValues(shown.at));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => wheel(event, cell, at(event)), { passive: false });
}

function modeOf(event) {
  if (pointers.size > 1) return "pinch";
  if (event.pointerType !== "mouse") return "scroll";
  if (event.button === 1 || event.shiftKey) return "move";
  return event.button === 2 ? "zoom" : "window";
}

// Between all fingers.
function middle() {
  const all = [...pointers.values()];
  return [0, 1].map((i) => all.reduce((sum, place) => sum + place[i], 0) / all.length);
}

function distance() {
  const [a, b] = [...pointers.values()];
  return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0;
}

const DRAGS = {
  // Right is wider, down is a higher level: what was shown gets darker. 500 pixels are the window.
  window(dx, dy) {
    const { panel } = drag.cell, [low, high] = drag.window;
    const unit = Math.max(high - low, (panel.fitted[1] - panel.fitted[0]) / 20) / 250;
    if (panel.kind === "error") return setErrorLimit(high + dx * unit);
    const width = Math.max(unit, high - low + dx * unit);
    const level = panel.kind === "uncertainty" ? width / 2 : (low + high) / 2 + dy * unit;
    return setWindow(panel.window, level - width / 2, level + width / 2);
  },
  zoom(dx, dy) { setZoom(drag.zoom * 1.01 ** -dy); },
  move(dx, dy) { moveView(dx, dy); },
  scroll(dx, dy) {
    const axis = PLANES[drag.cell.plane].through;
    moveTo(axis, drag.at[axis] + Math.round(axis ? dy / 8 : -dy / 8));
  },
  rest() {},
  pinch(dx, dy) {
    if (drag.apart) setZoom((drag.zoom * distance()) / drag.apart);
    moveView(dx, dy);
  },
};

function moveView(dx, dy) {
  const { down, right, flip } = PLANES[drag.cell.plane], scale = shown.fit * shown.zoom;
  shown.centre = drag.centre.slice();
  shown.centre[right] -= dx / scale;
  shown.centre[down] -= (flip ? -dy : dy) / scale;
  refresh();
}

function setZoom(zoom) {
  shown.zoom = Math.min(20, Math.max(0.2, zoom));
  refresh();
}

function setWindow(name, low, high) {
  shown.windows[name] = [low, high];
  refresh();
}

function setErrorLimit(limit) {
  const least = shown.view.error_limit / 200;
  setWindow("error", -Math.max(least, limit), Math.max(least, limit));
}

let rolled = 0;
function wheel(event, cell, [x, y]) {
  event.preventDefault();
  if (event.ctrlKey) {  // the point under the pointer stays where it is
    const { down, right, flip } = PLANES[cell.plane], before = shown.fit * shown.zoom * devicePixelRatio;
    setZoom(shown.zoom * 1.002 ** -event.deltaY);
    const change = 1 / before - 1 / (shown.fit * shown.zoom * devicePixelRatio);
    shown.centre[right] += (x - cell.canvas.width / 2) * change;
    shown.centre[down] += (flip ? -1 : 1) * (y - cell.canvas.height / 2) * change;
    return;
  }
  rolled += event.deltaMode === 0 ? event.deltaY / 50 : event.deltaY;
  const steps = Math.trunc(rolled);
  rolled -= steps;
  const axis = PLANES[cell.plane].through;
  if (steps) moveTo(axis, shown.at[axis] + (axis ? steps : -steps), cell.plane);  // down: feet, back, left
}

// A button; `isPressed` says whether it stays pressed.
function press(name, act, { label = name, title = "", isPressed = null } = {}) {
  const button = make("button", { type: "button", title, isPressed, dataset: { name } }, label);
  button.addEventListener("click", act);
  return button;
}

function presets() {
  return [...Object.entries(shown.view.unit === "HU" ? HU_WINDOWS : {}), ["auto", null]];
}

// "auto" (null) fits images to percentiles of their own; the other windows are for images in HU.
function applyPreset(window_) {
  for (const panel of shown.panels) {
    if (panel.colours !== "grey") continue;
    if (!window_) shown.windows[panel.window] = panel.fitted.slice();
    else if (panel.window === "image") shown.windows.image = window_.slice();
  }
  refresh();
}

function isWindow(window_) {
  return shown.panels.filter((panel) => panel.colours === "grey" && (!window_ || panel.window === "image"))
    .every((panel) => shown.windows[panel.window].join() === (window_ || panel.fitted).join());
}

function showPlane(name) {
  if (!chosen.planes.delete(name)) chosen.planes.add(name);
  if (!chosen.planes.size) chosen.planes.add(name);
  buildStage();
}

function showPanel(name) {
  chosen.panels[name] = !isPressed(name);
  if (!shown.panels.some((panel) => panel.buttons.every(isPressed))) chosen.panels[name] = true;
  buildStage();
}

function buildTools() {
  const { view, panels } = shown, labels = { crosshair: "crosshair", smooth: "interpolation", outline: "mask" };
  const buttons = {
    planes: Object.keys(PLANES).map((name) => press(name, () => showPlane(name), { isPressed: () => chosen.planes.has(name) })),
    panels: [...new Set(panels.flatMap((panel) => panel.buttons))].map((name) =>
      press(name, () => showPanel(name), { isPressed: () => isPressed(name) })),
    presets: presets().map(([name, window_], i) => press(name, () => applyPreset(window_), { title: `key ${i + 1}`, isPressed: () => isWindow(window_) })),
    options: Object.entries(labels).map(([name, label]) => press(name, () => flip(name), { label, isPressed: () => chosen[name] }))
      .concat(press("reset", reset, { title: "zoom, position and windows as at first (r)" })),
    places: view.worst.map(({ error }, i) => press(`worst-${i}`, () => goTo(i),
      { label: `${i + 1}: ${digits(error)} ${view.unit}`, title: "mean absolute error in a cube of 1 cm (w)" })),
  };
  for (const [id, own] of Object.entries(buttons)) $(id).querySelector(".buttons").replaceChildren(...own);
  $("places").hidden = !view.worst.length;
  $("error-limit").closest("label").hidden = !panels.some((panel) => panel.kind === "error");
}

function updateTools() {
  const [low, high] = shown.windows.image;
  const fields = { level: (low + high) / 2, width: high - low, "error-limit": (shown.windows.error || [0, 0])[1] };
  for (const [id, value] of Object.entries(fields)) {
    if (document.activeElement !== $(id)) $(id).value = Number(value.toPrecision(4));
  }
  for (const button of document.querySelectorAll(".buttons button")) {
    if (button.isPressed) button.ariaPressed = String(button.isPressed());
  }
}

function flip(name) {
  chosen[name] = !chosen[name];
  refresh();
}

function goTo(i) {
  shown.at = shown.view.worst[i].at.slice();
  shown.worst = (i + 1) % shown.view.worst.length;
  refresh();
}

function reset() {
  for (const panel of shown.panels) shown.windows[panel.window] = panel.auto.slice();
  resetPlace();
  refresh();
}

function neighbour(step) {
  const order = caseOrder(), next = order[order.indexOf(shown.number) + step];
  if (next !== undefined) openCase(next);
}

const KEYS = {
  n: () => neighbour(1), p: () => neighbour(-1), r: reset,
  m: () => flip("outline"), x: () => flip("crosshair"), i: () => flip("smooth"),
  w: () => shown.view.worst.length && goTo(shown.worst),
};

function travel(key, shift) {
  const { through, down, right, flip: flipped } = PLANES[chosen.active];
  const last = shown.view.shape[through] - 1;
  const arrows = { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
  if (shift) {
    const cross = { ArrowUp: [down, flipped ? 1 : -1], ArrowDown: [down, flipped ? -1 : 1], ArrowLeft: [right, -1], ArrowRight: [right, 1] }[key];
    if (cross) moveTo(cross[0], shown.at[cross[0]] + cross[1]);
    return Boolean(cross);
  }
  if (!(key in arrows)) return false;
  moveTo(through, Math.min(last, Math.max(0, shown.at[through] + arrows[key])));
  return true;
}

$("viewer").addEventListener("keydown", (event) => {
  const kind = event.target.type;
  if (!shown || kind === "number" || event.ctrlKey || event.altKey || event.metaKey) return;
  const window_ = presets()[Number(event.key) - 1];
  let used = true;
  if (event.key === "b") chosen.flicker || flip("flicker");
  else if (event.key in KEYS) KEYS[event.key]();
  else if (window_) applyPreset(window_[1]);
  else used = kind !== "range" && travel(event.key, event.shiftKey);
  if (used) event.preventDefault();
});
document.addEventListener("keyup", (event) => {
  if (event.key === "b" && chosen.flicker) flip("flicker");
});
for (const id of ["level", "width"]) {
  $(id).addEventListener("input", () => {
    const level = Number($("level").value), width = Math.max(Number($("width").value), 1e-6);
    setWindow("image", level - width / 2, level + width / 2);
  });
}
$("error-limit").addEventListener("input", () => setErrorLimit(Number($("error-limit").value)));
$("previous").addEventListener("click", () => neighbour(-1));
$("next").addEventListener("click", () => neighbour(1));
addEventListener("resize", () => shown && buildStage());

$("tools").open = innerWidth >= 600;
$("viewer").focus({ preventScroll: true });  // keys work without a click
if (caseOrder().length) openCase(caseOrder()[0]);
