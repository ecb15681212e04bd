// Keeps the session alive while a page is open, the chosen colours, and says when the connection is lost.
(() => {
  const EVERY = 8 * 60 * 1000;
  const alone = navigator.locks ? (work) => navigator.locks.request("ap_carry", work) : (work) => work();
  const carried = () => Number(localStorage.getItem("ap_carried") || 0);
  const toLogin = () => location.assign("/login?next=" + encodeURIComponent(location.pathname + location.search));

  const carryOn = () =>
    alone(async () => {
      if (Date.now() - carried() < EVERY) return;
      const answer = await fetch("/api/v1/auth/refresh", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: "{}",
      }).catch(() => null);
      if (!answer) return;
      if (answer.ok) localStorage.setItem("ap_carried", Date.now());
      else if (answer.status === 401) toLogin();
    });
  setInterval(carryOn, 30 * 1000);
  document.addEventListener("visibilitychange", () => document.hidden || carryOn());

  const token = () => (document.cookie.match(/(?:^|; )ap_csrf=([^;]+)/) || [])[1] || "";
  window.roomLogout = async () => {
    await fetch("/api/v1/auth/logout", { method: "POST", headers: { "X-CSRF-Token": token() } }).catch(() => null);
    location.assign("/login");
  };

  window.roomColours = (chosen) => {
    if (chosen) localStorage.setItem("ap_colours", chosen);
    const wanted = localStorage.getItem("ap_colours");
    if (window.Quasar) Quasar.Dark.set(wanted ? wanted === "dark" : "auto");
  };
  window.roomTurnColours = () => roomColours(document.body.classList.contains("body--dark") ? "light" : "dark");
  addEventListener("load", () => roomColours());
})();
