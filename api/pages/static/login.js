// Logs in, or carries a session on that is only a little old, and goes where one wanted to go.
const next = new URLSearchParams(location.search).get("next") || "/room/";
const onward = () => location.replace(next.startsWith("/room") ? next : "/room/");
const post = (path, body) =>
  fetch("/api/v1/auth/" + path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

const carriedOn = async () => {
  if (!document.cookie.includes("ap_csrf=")) return;
  const answer = await post("refresh", {}).catch(() => null);
  if (answer && answer.ok) {
    localStorage.setItem("ap_carried", Date.now());
    onward();
  }
};
const alone = navigator.locks ? (work) => navigator.locks.request("ap_carry", work) : (work) => work();
alone(carriedOn);

document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const said = document.getElementById("said");
  const button = event.target.querySelector("button");
  const [name, password] = ["name", "password"].map((id) => document.getElementById(id).value);
  button.disabled = true;
  said.textContent = "";
  try {
    const answer = await post("login", { name, password, cookies: true });
    if (answer.ok) {
      localStorage.setItem("ap_carried", Date.now());
      return onward();
    }
    const problem = await answer.json();
    const wait = answer.headers.get("Retry-After");
    said.textContent = problem.detail + (wait ? ` Try again in ${wait} s.` : "");
  } catch {
    said.textContent = "The control room does not answer: is it running? `make status` on its machine tells.";
  }
  button.disabled = false;
  document.getElementById("password").select();
});
