"use strict";
(function () {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach(function (head, column) {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", function () {
      const text = head.dataset.way === "text";
      const first = head.dataset.way === "higher" ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const rows = Array.from(body.rows);
      rows.sort(function (a, b) {
        const u = a.cells[column].dataset.v, v = b.cells[column].dataset.v;
        if (text) return sign * u.localeCompare(v);
        if (u === "" || v === "") return (u === "") - (v === "");  // what is missing stays last
        return sign * (parseFloat(u) - parseFloat(v));
      });
      rows.forEach(function (row, number) { row.cells[0].textContent = number + 1; body.appendChild(row); });
      heads.forEach(function (h) { if (h.hasAttribute("aria-sort")) h.setAttribute("aria-sort", "none"); });
      head.setAttribute("aria-sort", order);
    });
  });

  const under = document.getElementById("under");
  const strength = { signed: 18, exact: 18, where: 100 };
  let reading = "signed";
  function show() {
    document.body.classList.toggle("where", reading === "where");
    document.body.classList.toggle("exact", reading === "exact");
    const name = reading === "where" ? "--under-where" : "--under";
    document.documentElement.style.setProperty(name, strength[reading] / 100);
  }
  if (under) under.addEventListener("input", function () { strength[reading] = under.value; show(); });
  document.querySelectorAll("input[name=reading]").forEach(function (choice) {
    choice.addEventListener("change", function () { reading = choice.value; under.value = strength[reading]; show(); });
    if (choice.checked) { reading = choice.value; under.value = strength[reading]; show(); }
  });

  // One stop of the tab key per group; arrows move inside it.
  function roving(group, items) {
    items.forEach(function (item) {
      item.addEventListener("keydown", function (event) {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const seen = items.filter(function (one) { return !one.hidden; });
        const next = seen[(seen.indexOf(item) + step + seen.length) % seen.length];
        items.forEach(function (one) { one.tabIndex = one === next ? 0 : -1; });
        next.focus();
      });
    });
  }

  document.querySelectorAll(".curves").forEach(function (curves) {
    function focus(number) {
      curves.classList.toggle("focus", number !== null);
      curves.querySelectorAll("polyline").forEach(function (line) {
        line.classList.toggle("on", line.dataset.line === number);
      });
    }
    curves.querySelectorAll("[data-line]").forEach(function (item) {
      item.addEventListener("mouseenter", function () { focus(item.dataset.line); });
      item.addEventListener("mouseleave", function () { focus(null); });
    });
    const names = Array.from(curves.querySelectorAll("li"));
    names.forEach(function (item) {
      item.addEventListener("focus", function () { focus(item.dataset.line); });
      item.addEventListener("blur", function () { focus(null); });
    });
    roving(curves, names);
  });

  const large = document.getElementById("large");
  document.querySelectorAll(".maps:not(.readings)").forEach(function (maps) {
    const figures = Array.from(maps.querySelectorAll("figure"));
    figures.forEach(function (figure) {
      function enlarge() {
        const copy = figure.cloneNode(true);
        copy.removeAttribute("tabindex");
        const photo = maps.closest(".photo").style;
        const room = large.lastElementChild;
        room.replaceChildren(copy);
        ["--photo", "--ratio"].forEach(function (name) { room.style.setProperty(name, photo.getPropertyValue(name)); });
        large.showModal();
      }
      figure.addEventListener("click", enlarge);
      figure.addEventListener("keydown", function (event) { if (event.key === "Enter") enlarge(); });
    });
    roving(maps, figures);
  });
  large.addEventListener("click", function (event) { if (event.target === large) large.close(); });

  const chosen = Array.from(document.querySelectorAll("input[name=method]"));
  chosen.forEach(function (box) {
    box.addEventListener("change", function () {
      document.querySelectorAll(".maps figure").forEach(function (figure) {
        if (figure.dataset.method === box.value) figure.hidden = !box.checked;
      });
      document.querySelectorAll(".maps:not(.readings)").forEach(function (maps) {  // the one stop is at a map that is there
        const figures = Array.from(maps.querySelectorAll("figure"));
        if (figures.some(function (one) { return one.tabIndex === 0 && !one.hidden; })) return;
        const first = figures.find(function (one) { return !one.hidden; });
        figures.forEach(function (one) { one.tabIndex = one === first ? 0 : -1; });
      });
    });
  });
})();
