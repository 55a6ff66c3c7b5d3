// Sets the theme before anything is painted; a classic script, so that it blocks.
(() => {
  try {
    const chosen = localStorage.getItem("systole-theme");
    if (chosen === "dark" || chosen === "light") {
      document.documentElement.dataset.theme = chosen;
    }
  } catch {
    // Storage may be forbidden; the system's theme stays.
  }
})();
