// The theme that was chosen, before the first paint; without a choice, the system's.
const chosen = (() => {
  try {
    return localStorage.getItem("lowerbound-theme");
  } catch {
    return null;
  }
})();
if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
// The token has become a cookie: it need not stand in the address, nor in the history.
if (location.search) history.replaceState(null, "", "/");
