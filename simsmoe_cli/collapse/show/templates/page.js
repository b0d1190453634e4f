// Tables are sorted by their column heads; everything else works without this.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const descending = head.ariaSort !== "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.ariaSort = descending ? "descending" : "ascending";
    const key = (row) => row.children[head.cellIndex].dataset.value ?? "";
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = a - b;
      return (Number.isNaN(order) ? a.localeCompare(b) : order) * (descending ? -1 : 1);
    };
    const body = head.closest("table").tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
}
// What is folded away is printed too.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
