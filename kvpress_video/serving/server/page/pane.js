// One session: its settings, its frames, its memory, its conversation.

import * as api from "./api.js";
import { drawFrame, drawMemory, drawOrigin, size } from "./draw.js";

const SHOWN = 24; // steps in the film
const POINTS = 400; // of the memory curve
const PAUSE = 400; // milliseconds from one look at the session to the next, while frames wait

export class Pane {
  // `reel` holds the frames pushed lately, which a session with other settings is given again.
  constructor(offered, reel, removed) {
    this.reel = reel;
    this.root = document.getElementById("pane").content.firstElementChild.cloneNode(true);
    this.fields = { method: this.find(".method"), budget: this.find(".budget") };
    this.fields.method.append(...offered.data.map(({ name, summary }) => {
      const option = new Option(name, name);
      option.title = summary;
      return option;
    }));
    this.fields.method.value = offered.method;
    this.fields.budget.value = offered.budget;
    for (const field of Object.values(this.fields)) field.addEventListener("change", () => this.restart());
    this.find(".remove").addEventListener("click", () => { this.close(); removed(this); });
    this.turn = Promise.resolve();
    this.backlog = 0;
    this.clear();
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  clear() {
    this.points = [];
    this.kept = null;
    this.looked = 0;
    for (const caption of [".size", ".count"]) this.find(caption).textContent = "";
  }

  note(text, bad = false) {
    const note = this.find(".note");
    note.textContent = text;
    note.classList.toggle("bad", bad);
  }

  // Runs calls that change the session one after another.
  next(call) {
    this.turn = this.turn.then(call).catch((error) => this.note(error.message, true));
    return this.turn;
  }

  // Opens a session with the settings of the fields, and pushes the frames of the reel; the one before stays until then.
  restart() {
    const { method, budget } = this.fields;
    if (this.find(".talk").children.length) this.say("divider", `${method.value} · budget ${budget.value}`);
    this.ready = this.next(async () => {
      const size = /^\d+$/.test(budget.value.trim()) ? Number(budget.value) : budget.value.trim();
      const { id } = await api.open({ method: method.value, budget: size });
      this.close();
      this.session = id;
      this.clear();
      const frames = [...this.reel.frames];
      this.first = frames.length ? frames[0].number : this.reel.count;
      for (const [place, frame] of frames.entries()) {
        this.note(`Pushing the last ${frames.length} frames again: ${place + 1}`);
        await api.push(id, frame.content, frame.time);
        await this.glance();
      }
      this.last = this.first + frames.length - 1;
      this.note("");
      await this.look();
    });
    return this.ready;
  }

  forget() {
    this.find(".talk").replaceChildren();
  }

  say(kind, text) {
    const said = Object.assign(document.createElement("p"), { className: kind, textContent: text });
    const talk = this.find(".talk");
    talk.append(said);
    talk.scrollTop = talk.scrollHeight;
    return said;
  }

  close() {
    if (this.session) api.close(this.session).catch(() => {});
    this.session = null;
  }

  push(frame) {
    this.backlog += 1;
    return this.next(async () => {
      try {
        if (!this.session || frame.number <= this.last) return;
        await api.push(this.session, frame.content, frame.time);
        await (this.backlog > 1 ? this.glance() : this.look());
      } finally {
        this.backlog -= 1;
      }
    });
  }

  // Looks at the session, unless it has just been done.
  async glance() {
    if (performance.now() - this.looked > PAUSE) await this.look();
  }

  async look() {
    if (!this.session) return;
    const [stats, kept] = await Promise.all([api.stats(this.session), api.kept(this.session, SHOWN)]);
    this.looked = performance.now();
    this.kept = { ...kept, shares: Uint8Array.from(atob(kept.shares), (letter) => letter.charCodeAt(0)) };
    this.points.push({ frames: stats.frames, bytes: stats.bytes, cap: stats.cap_bytes, stock: stats.stock_bytes });
    if (this.points.length > POINTS) this.points = this.points.filter((_, place) => place % 2 || place === POINTS);
    const less = stats.stock_bytes > stats.bytes ? `, ${(stats.stock_bytes / stats.bytes).toFixed(1)} × less than a stock cache` : "";
    this.find(".size").textContent = stats.frames ? `${size(stats.bytes)}${less}` : "";
    this.find(".count").textContent = stats.frames ? `${stats.entries} of ${stats.visual_tokens} per layer and head, by when they were shown` : "";
    this.draw();
  }

  draw() {
    const { rows, columns, first, steps, shares, frames_per_step: each } = this.kept;
    const patches = rows * columns;
    const newest = this.reel.frames.at(-1);
    const film = this.find(".film");
    if (!newest) return film.replaceChildren();
    const share = (step) => (step >= first && step < steps ? shares.subarray((step - first) * patches, (step - first + 1) * patches) : null);
    const stepOf = (frame) => Math.floor((frame.number - this.first) / each);
    const shown = this.reel.frames.filter((frame) => frame.number >= this.first && (frame.number - this.first) % each === 0).slice(-SHOWN);
    while (film.children.length < shown.length) film.append(document.createElement("canvas"));
    while (film.children.length > shown.length) film.firstElementChild.remove();
    shown.forEach((frame, place) => drawFrame(film.children[place], frame.picture, share(stepOf(frame)), columns));
    const seen = shown.findLast((frame) => share(stepOf(frame))) ?? newest;
    drawFrame(this.find(".live"), seen.picture, share(stepOf(seen)), columns);
    this.find(".clock").textContent = `${seen.time.toFixed(1)} s`;
    drawMemory(this.find(".memory"), this.points);
    drawOrigin(this.find(".origin"), this.kept.held, steps);
  }

  // Asks the session, once it has the settings of the fields.
  async ask(question) {
    this.say("asked", question);
    const answer = this.say("answered busy", "");
    try {
      await this.ready;
      if (!this.session) throw new Error("Choose a source first.");
      for await (const piece of api.ask(this.session, question)) answer.textContent += piece;
      answer.textContent ||= "(no text)";
    } catch (error) {
      answer.textContent = error.message;
      answer.classList.add("bad");
    }
    answer.classList.remove("busy");
    this.find(".talk").scrollTop = this.find(".talk").scrollHeight;
    if (!this.backlog) await this.next(() => this.look());
  }
}
