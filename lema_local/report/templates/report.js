"use strict";
(() => {
  const form = document.querySelector("#find");
  if (!form) return;
  const articles = [...document.querySelectorAll("article[data-state]")];
  const texts = articles.map((article) => article.textContent.toLowerCase());
  const [text, state, found] = ["#find-text", "#find-state", "#found"].map((id) => form.querySelector(id));
  const show = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const isFound = (article, at) =>
      words.every((word) => texts[at].includes(word)) && (!state.value || article.dataset.state === state.value);
    articles.forEach((article, at) => { article.hidden = !isFound(article, at); });
    const count = articles.filter((article) => !article.hidden).length;
    found.textContent = `${count} of ${articles.length} examples`;
  };
  const open = (isOpen) => articles.filter((article) => !article.hidden)
    .forEach((article) => { article.querySelector("details").open = isOpen; });
  form.addEventListener("submit", (event) => event.preventDefault());
  text.addEventListener("input", show);
  state.addEventListener("change", show);
  form.querySelector("#open-all").addEventListener("click", () => open(true));
  form.querySelector("#close-all").addEventListener("click", () => open(false));
  form.hidden = false;
  show();
})();
