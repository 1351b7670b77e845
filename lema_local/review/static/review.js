// One key each: a key presses the button or follows the link that names it. Without this script the forms do it all.
"use strict";
document.documentElement.classList.add("scripted");
let isLeaving = false;

addEventListener("keydown", event => {
  const note = document.getElementById("note");
  if (event.target === note) {
    if (event.key === "Escape") note.blur();
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || isLeaving) return;
  if (event.key === "a") {
    const gold = document.getElementById("gold");
    if (gold) gold.open = !gold.open;
  } else if (event.key === "n" && note) {
    note.focus();
    event.preventDefault();
  } else {
    const named = [...document.querySelectorAll("[data-key]")].find(one => one.dataset.key === event.key);
    if (named) named.click();
  }
});

// A form is sent once, however often it is clicked; coming back to a kept page unlocks it.
addEventListener("submit", event => {
  if (isLeaving) event.preventDefault();
  isLeaving = true;
});
addEventListener("pageshow", event => {
  isLeaving = false;
  if (event.persisted) location.reload();
});

// A note is saved while it is written.
const note = document.getElementById("note");
if (note) {
  const state = document.getElementById("state");
  const correction = document.querySelector("[name=correction]").value;
  let timer = 0;
  const save = async () => {
    clearTimeout(timer);
    timer = 0;
    try {
      const answer = await fetch(note.form.action, {
        method: "POST", keepalive: true, body: new URLSearchParams({ correction, note: note.value }),
      });
      state.textContent = answer.ok ? "note saved" : "note NOT saved: " + (await answer.text());
    } catch {
      if (!isLeaving) state.textContent = "note NOT saved: lema review has ended";
    }
  };
  note.addEventListener("input", () => {
    clearTimeout(timer);
    state.textContent = "";
    timer = setTimeout(save, 250);
  });
  addEventListener("pagehide", () => { if (timer && !isLeaving) save(); });
}
