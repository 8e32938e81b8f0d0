// The overview: sorted by any column, the worst first; a row opens its case.

const table = $("cases"), body = table.tBodies[0];

// The first press on a column puts the worst on top (names: from A), the second the best. Columns of
// numbers carry how bad each value is (data-bad); a missing value comes last either way.
function sortBy(head, order) {
  const column = head.cellIndex, sign = order === "best" ? -1 : 1;
  const bad = (row) => row.cells[column].dataset.bad;
  const rows = [...body.rows].sort((a, b) => {
    if (head.classList.contains("text")) {
      return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent);
    }
    if ((bad(a) === "") !== (bad(b) === "")) return bad(a) === "" ? 1 : -1;
    return sign * (Number(bad(b)) - Number(bad(a)));
  });
  for (const other of head.parentElement.cells) {
    other.ariaSort = null;
    delete other.dataset.order;
  }
  head.dataset.order = order;
  head.ariaSort = (head.dataset.worst === "ascending") === (order === "worst") ? "ascending" : "descending";
  body.append(...rows);
}

function caseOrder() {
  return [...body.rows].map((row) => Number(row.dataset.case));
}

function selectRow(number) {
  for (const row of body.rows) row.setAttribute("aria-selected", String(Number(row.dataset.case) === number));
}

table.tHead.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (head && event.target.closest("button")) sortBy(head, head.dataset.order === "worst" ? "best" : "worst");
});

body.addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (!row) return;
  openCase(Number(row.dataset.case));
  $("viewer").focus({ preventScroll: true });
  $("viewer").scrollIntoView({ behavior: "smooth" });
});

$("more")?.addEventListener("click", (event) => {
  event.target.ariaPressed = String(table.classList.toggle("all"));
});
