// Isolate the method picked in the legend; sort a table by the column head clicked, descending first.
for (const section of document.querySelectorAll("section.side")) {
  const buttons = section.querySelectorAll(".legend button");
  const show = (name) => {
    section.classList.toggle("picked", name !== null);
    for (const part of section.querySelectorAll("figure [data-method]"))
      part.classList.toggle("on", part.dataset.method === name);
  };
  let kept = null;
  for (const button of buttons) {
    button.addEventListener("mouseenter", () => show(button.dataset.name));
    button.addEventListener("mouseleave", () => show(kept));
    button.addEventListener("click", () => {
      kept = kept === button.dataset.name ? null : button.dataset.name;
      for (const other of buttons) other.setAttribute("aria-pressed", other.dataset.name === kept);
      show(kept);
    });
  }
}
for (const head of document.querySelectorAll("th[data-sort]")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const down = head.dataset.sort !== "down";
    head.dataset.sort = down ? "down" : "up";
    const key = (row) => row.cells[head.cellIndex].dataset.value ?? row.cells[head.cellIndex].textContent.trim();
    const compare = (a, b) => (isNaN(a) || isNaN(b) || a === "" || b === "" ? String(a).localeCompare(b) : a - b);
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (down ? -1 : 1));
    body.append(...rows);
  });
}
