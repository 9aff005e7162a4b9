// Forms whose answer is shown while one types: <form data-live="ID"> replaces the element ID by
// that of the page that the form asks for. What waits for the model ([data-waiting] inside) is asked
// for again. Without this, the form's button does the same.

/** @param {HTMLFormElement} form */
function enliven(form) {
  const id = form.dataset.live ?? "";
  /** @type {AbortController | undefined} */
  let asked;
  let timer = 0;

  function address() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (typeof value === "string" && value.trim()) query.append(name, value);
    }
    return `${form.action}?${query}`;
  }

  /** @param {string} where */
  async function show(where) {
    asked?.abort();
    asked = new AbortController();
    document.getElementById(id)?.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(where, { signal: asked.signal });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const found = page.getElementById(id) ?? page.querySelector(".words");
      if (!found) return;
      const held = document.createElement(found.localName === "p" ? "div" : found.localName);
      held.id = id;
      held.setAttribute("aria-live", "polite");
      held.append(...(found.id === id ? found.childNodes : [found]));
      document.getElementById(id)?.replaceWith(held);
      if (answer.ok) history.replaceState(null, "", where);
      again(where);
    } catch (error) {
      if (!(error instanceof DOMException && error.name === "AbortError")) throw error;
    }
  }

  /** @param {string} where */
  function again(where) {
    clearTimeout(timer);
    if (document.querySelector(`#${id} [data-waiting]`)) {
      timer = setTimeout(() => show(where), 1000);
    }
  }

  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => show(address()), 300);
  });
  again(location.href);
}

for (const form of document.querySelectorAll("form[data-live]")) {
  if (form instanceof HTMLFormElement) enliven(form);
}
