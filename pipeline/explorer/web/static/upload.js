// Pictures that are brought: chosen in a form, dropped anywhere on the page, or pasted. A form says
// by data-upload where they go, and by data-then what is asked of a picture ("/maps"; "": its page).

for (const form of document.querySelectorAll("form[data-upload]")) {
  if (form instanceof HTMLFormElement) listen(form);
}

/** @param {HTMLFormElement} form */
function listen(form) {
  const field = form.querySelector("input[type=file]");
  if (!(field instanceof HTMLInputElement)) return;
  const chosen = () => bring(form, field.files?.[0], "Choose a picture, or drop one on this page.");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    chosen();
  });
  field.addEventListener("change", chosen);
  // Of several forms, the first takes what is dropped beside them.
  const first = document.querySelector("form[data-upload]") === form;
  for (const place of first ? [form, document.body] : [form]) {
    place.addEventListener("dragover", (event) => {
      event.preventDefault();
      form.classList.add("dropping");
    });
    place.addEventListener("dragleave", () => form.classList.remove("dropping"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      form.classList.remove("dropping");
      const file = event instanceof DragEvent ? event.dataTransfer?.files[0] : undefined;
      bring(form, file, "What was dropped is no file: save the picture, then drop its file.");
    });
  }
  if (first) {
    document.addEventListener("paste", (event) => {
      const file = event.clipboardData?.files[0];
      if (file) bring(form, file, "");
    });
  }
}

/**
 * @param {HTMLFormElement} form
 * @param {File | undefined} file
 * @param {string} otherwise What is said where there is no file.
 */
async function bring(form, file, otherwise) {
  if (!file) return say(form, otherwise);
  say(form, `Bringing ${file.name}, ${(file.size / 2 ** 20).toFixed(1)} MiB…`);
  const to = `${form.dataset.upload}?${new URLSearchParams({ name: file.name.slice(-200) })}`;
  try {
    const answer = await fetch(to, {
      method: "POST",
      body: file,
      headers: { "Content-Type": "application/octet-stream" },
    });
    const found = await answer.json();
    if (answer.ok) location.assign(found.address + (form.dataset.then ?? ""));
    else say(form, found.error);
  } catch {
    say(form, "No answer came: the server has ended, or the file is larger than any it takes.");
  }
}

/**
 * @param {HTMLFormElement} form
 * @param {string} words
 */
function say(form, words) {
  const place = form.querySelector("output");
  if (place) place.textContent = words;
}
