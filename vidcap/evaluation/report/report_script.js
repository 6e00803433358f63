"use strict";
(() => {
  const cards = document.getElementById("cards");
  const order = document.getElementById("order");
  const search = document.getElementById("search");
  const wrong = document.getElementById("wrong");
  const shown = document.getElementById("shown");
  if (!cards) return;
  const all = [...cards.children];
  const texts = new Map(all.map((card) => [card, card.textContent.toLowerCase()]));

  // Value of a card, and 1 for rising or -1 for falling.
  const orders = {
    "score-up": [(card) => Number(card.dataset.score), 1],
    "score-down": [(card) => Number(card.dataset.score), -1],
    "length-up": [(card) => Number(card.dataset.length), 1],
    "length-down": [(card) => Number(card.dataset.length), -1],
    "name": [(card) => card.dataset.name, 1],
  };

  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);

  const update = () => {
    const [value, direction] = orders[order.value];
    cards.append(...[...all].sort((a, b) => direction * compare(value(a), value(b))));
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const card of all) {
      card.hidden = (wrong.checked && card.dataset.exact === "1") || !texts.get(card).includes(wanted);
      count += card.hidden ? 0 : 1;
    }
    shown.textContent = `${count} of ${all.length} shown`;
  };

  for (const button of cards.querySelectorAll("button.play")) {
    const picture = button.closest("figure").querySelector("img");
    const strip = picture.src;
    button.hidden = false;
    button.addEventListener("click", () => {
      const playing = button.getAttribute("aria-pressed") === "true";
      picture.src = playing ? strip : button.dataset.animation;
      button.setAttribute("aria-pressed", String(!playing));
      button.textContent = playing ? "▶ play" : "■ frames";
    });
  }
  for (const control of [order, wrong]) control.addEventListener("change", update);
  search.addEventListener("input", update);
  document.getElementById("tools").hidden = false;
  update();
})();
