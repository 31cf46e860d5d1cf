// A camera or a video file, pushed frame by frame into one session, or into two to compare.

import * as api from "./api.js";
import { Pane } from "./pane.js";

const SIDE = 448; // pixels of the longer side of a pushed frame
const REEL = 240; // frames held here, to be given to a session with other settings
const BACKLOG = 24; // frames that may wait for the server before a camera skips some
const QUALITY = 0.88;

const element = (id) => document.getElementById(id);
const reel = { frames: [], count: 0 };
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });
const panes = [];
let offered;
let running = null; // what stops the source

function told(text) {
  element("state").textContent = text;
}

function addPane() {
  const pane = new Pane(offered, reel, removePane);
  panes.push(pane);
  element("panes").append(pane.root);
  arrange();
  return pane;
}

function removePane(pane) {
  panes.splice(panes.indexOf(pane), 1);
  pane.root.remove();
  arrange();
}

function arrange() {
  element("panes").classList.toggle("two", panes.length > 1);
  element("compare").disabled = panes.length > 1;
  for (const pane of panes) {
    pane.find(".remove").hidden = panes.length < 2;
    if (pane.kept) pane.draw();
  }
}

// Takes the picture that the video shows now.
async function grab(time) {
  const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = new OffscreenCanvas(Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale));
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const content = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  return { content, time, picture: await createImageBitmap(canvas), number: reel.count };
}

function push(frame) {
  reel.frames.push(frame);
  reel.count += 1;
  if (reel.frames.length > REEL) reel.frames.shift().picture.close();
  return Promise.all(panes.map((pane) => pane.push(frame)));
}

// Stops the source before, and starts a stream: sessions begin anew, since frames of one session have one size.
async function begin(label) {
  stop();
  for (const frame of reel.frames.splice(0)) frame.picture.close();
  reel.count = 0;
  told(label);
  await Promise.all(panes.map((pane) => {
    pane.forget();
    return pane.restart();
  }));
}

function stop() {
  running?.();
  running = null;
  element("stop").disabled = true;
}

function start(stopping) {
  running = stopping;
  element("stop").disabled = false;
}

const wait = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

async function watchCamera() {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } } });
  await begin("Camera");
  video.srcObject = stream;
  await video.play();
  const began = performance.now();
  let live = true;
  let skipped = 0;
  start(() => {
    live = false;
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    told(`Camera stopped after ${reel.count} frames.`);
  });
  while (live) {
    const due = performance.now() + 1000 / Number(element("rate").value);
    if (Math.max(...panes.map((pane) => pane.backlog)) < BACKLOG) {
      const frame = await grab((performance.now() - began) / 1000);
      if (live) push(frame);
    } else {
      skipped += 1;
    }
    if (live) told(`Camera · ${reel.count} frames${skipped ? ` · ${skipped} skipped: the server is slower` : ""}`);
    await wait(due - performance.now());
  }
}

async function watchFile(file) {
  await begin(file.name);
  const url = URL.createObjectURL(file);
  let live = true;
  start(() => {
    live = false;
    URL.revokeObjectURL(url);
    video.removeAttribute("src");
    told(`${file.name} stopped after ${reel.count} frames.`);
  });
  const happened = (event) => new Promise((resolve, reject) => {
    video.addEventListener(event, resolve, { once: true });
    video.addEventListener("error", () => reject(new Error("This browser cannot read the video.")), { once: true });
  });
  const ready = happened("loadeddata");
  video.src = url;
  await ready;
  for (let time = 0; live && time < video.duration; time += 1 / Number(element("rate").value)) {
    const there = happened("seeked");
    video.currentTime = time;
    await there;
    if (!live) return;
    await push(await grab(time));
    told(`${file.name} · ${time.toFixed(1)} of ${video.duration.toFixed(1)} s · ${reel.count} frames`);
  }
  if (!live) return;
  stop();
  told(`${file.name} · all ${reel.count} frames`);
}

function guarded(call) {
  return (...given) => call(...given).catch((error) => {
    stop();
    told(error.name === "NotAllowedError" ? "The browser does not allow the camera." : error.message);
  });
}

async function connect() {
  try {
    offered = await api.methods();
  } catch (error) {
    element("access").hidden = error.status !== 401;
    return told(error.message);
  }
  element("access").hidden = true;
  element("model").textContent = `${offered.model} · ${offered.method} · budget ${offered.budget}`;
  addPane();
  told("Choose a source.");
}

element("camera").addEventListener("click", guarded(watchCamera));
element("file").addEventListener("change", ({ target }) => {
  if (target.files.length) guarded(watchFile)(target.files[0]);
  target.value = "";
});
element("stop").addEventListener("click", stop);
element("compare").addEventListener("click", () => addPane().restart());
element("access").addEventListener("submit", (event) => {
  event.preventDefault();
  api.useKey(element("key").value);
  connect();
});
element("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = element("question").value.trim();
  element("question").value = "";
  if (!question) return;
  for (const pane of panes) pane.ask(question);
  panes[0].find(".talk").scrollIntoView({ block: "nearest" });
});
addEventListener("resize", arrange);
addEventListener("pagehide", () => { for (const pane of panes) pane.close(); });
connect();
