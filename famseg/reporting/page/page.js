"use strict";
// Sorting of tables, and the switch between light and dark.
(() => {
  const value = (row, column) => {
    const cell = row.cells[column];
    const number = cell.dataset.value;
    return number === undefined ? cell.textContent.trim() : Number(number);
  };
  const compare = (a, b, down) => {
    const numbers = [a, b].map((each) => typeof each === "number");
    if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1; // what has no number comes last
    const order = numbers[0] ? a - b : a.localeCompare(b, undefined, { numeric: true });
    return down ? -order : order;
  };
  const sort = (table, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const column = header.cellIndex;
    rows.sort((a, b) => compare(value(a, column), value(b, column), down));
    body.append(...rows);
  };
  addEventListener("DOMContentLoaded", () => {
    for (const table of document.querySelectorAll("table.sortable")) {
      for (const header of table.tHead.rows[0].cells) {
        header.querySelector("button").addEventListener("click", () => sort(table, header));
      }
    }
    const toggle = document.getElementById("theme");
    const isDark = () =>
      document.documentElement.dataset.theme === "dark" ||
      (!document.documentElement.dataset.theme &&
        matchMedia("(prefers-color-scheme: dark)").matches);
    toggle.hidden = false;
    toggle.addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      document.dispatchEvent(new Event("themechange"));
    });
  });
})();
