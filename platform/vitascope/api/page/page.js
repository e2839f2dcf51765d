// The page of a Vitascope service: it uses the addresses that any other client uses.

const PICTURE = "image/png,image/jpeg,image/webp";
const VIDEO = "video/mp4,video/quicktime,video/webm,video/x-matroska";
const FILES = {
  image: ["Image", PICTURE], image_last: ["Last image", PICTURE],
  video: ["Video", VIDEO], video_after: ["Video that follows", VIDEO],
};
const POLL_MS = 2000;
const PAGE = 24;

const $ = (selector, within = document) => within.querySelector(selector);
const ask = $("#ask");
const running = new Map(); // id -> list item
const shown = new Set(); // ids in the gallery
let modes = [];
let models = [];
let defaults = {}; // of the chosen model
let oldest = null; // id after which older videos follow
let timer = null;
let source = null; // the video that "extend this" chose

const MODES = {
  text_to_video: ["Text to video", "A video of the prompt."],
  image_to_video: ["Image to video", "The image is the first frame."],
  first_last: ["First and last frame", "From the first image to the last one."],
  loop: ["Loop", "The last frame leads into the first one; an image, if given, is the first."],
  extend_forward: ["Extend a video", "Begins with the end of the video and goes on; seconds are those of the whole."],
  extend_backward: ["Lead to a video", "Ends with the beginning of the video; seconds are those of the whole."],
  join: ["Join two videos", "From the end of the one to the beginning of the other."],
  interpolate: ["More frames", "The video with frames in between: frames/s are twice its own."],
  video_to_video: ["Video to video", "The video made anew, as the prompt says."],
};

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const key = localStorage.getItem("vitascope-key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (typeof options.body === "string") headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: { message: answer.statusText } }));
  if (answer.status === 401) askKey();
  throw Object.assign(new Error(error.message), { status: answer.status });
}

const get = async (path) => (await call(path)).json();
const post = async (path, document) => (await call(path, { method: "POST", body: JSON.stringify(document) })).json();

function say(text) { $("#state").textContent = text; }

// The form

function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => new Option(text ?? value, value, false, value === chosen)));
}

function chooseModel() {
  const model = models.find((each) => each.id === ask.model.value) ?? models[0];
  modes = model.modes.filter((mode) => mode.id in MODES);
  const mode = ask.mode.value;
  options(ask.mode, modes.map((each) => [each.id, MODES[each.id][0]]), modes.some((each) => each.id === mode) ? mode : modes[0].id);
  options(ask.quality, model.qualities.map((each) => [each]), "exact");
  options(ask.adapter, [["", "none"], ...model.adapters.map((each) => [each])], "");
  ask.adapter.parentElement.hidden = !model.adapters.length;
  $("#sizes").replaceChildren(...model.sizes.map((size) => new Option(size)));
  for (const [name, value] of Object.entries(model.defaults)) {
    if (ask[name] && ["", String(defaults[name])].includes(ask[name].value)) ask[name].value = value;
  }
  defaults = model.defaults;
  chooseMode();
}

function chooseMode() {
  const mode = modes.find((each) => each.id === ask.mode.value);
  $("#about-mode").textContent = MODES[mode.id][1];
  if (!mode.needs.includes("video")) source = null;
  $("#media").replaceChildren(...[...mode.needs, ...mode.may_have].map((field) => {
    const [title, accept] = FILES[field];
    const label = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "file", name: field, accept, required: mode.needs.includes(field) });
    label.append(title + " ", input);
    if (field === "video" && source) {
      input.required = false;
      label.append(Object.assign(document.createElement("span"), { className: "hint", textContent: `the video “${source.prompt}”; or choose a file` }));
    }
    return label;
  }));
}

async function upload(file) {
  const form = new FormData();
  form.append("purpose", "user_data");
  form.append("file", file);
  return (await (await call("v1/files", { method: "POST", body: form })).json()).id;
}

async function submit(event) {
  event.preventDefault();
  const button = $("button[type=submit]", ask);
  const refused = $("#refused");
  button.disabled = true;
  refused.hidden = true;
  try {
    const document = { prompt: ask.prompt.value, mode: ask.mode.value, size: ask.size.value, seconds: ask.seconds.value, model: ask.model.value };
    for (const name of ["fps", "seed", "steps", "guidance"]) if (ask[name].value) document[name] = Number(ask[name].value);
    for (const name of ["quality", "adapter", "negative_prompt"]) if (ask[name].value) document[name] = ask[name].value;
    document.seed ??= anySeed();
    for (const input of ask.querySelectorAll("input[type=file]")) {
      if (input.files[0]) {
        say(`uploading ${input.files[0].name} …`);
        document[input.name] = await upload(input.files[0]);
      } else if (source) document[input.name] = source.id;
    }
    queued(await post("v1/videos", document));
    say("");
  } catch (error) {
    refused.textContent = error.message;
    refused.hidden = false;
    say("");
  } finally {
    button.disabled = false;
  }
}

const anySeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

// The queue

function queued(video, first = true) {
  if (running.has(video.id)) return;
  const item = $("#job").content.cloneNode(true).firstElementChild;
  $(".words", item).textContent = video.prompt;
  $("button", item).onclick = () => act(() => remove(video.id, item), $("button", item));
  running.set(video.id, item);
  if (first) $("#queue").prepend(item); else $("#queue").append(item);
  progressed(video, item);
  look();
}

function progressed(video, item) {
  const state = { queued: "waiting", in_progress: `${video.progress} %` }[video.status];
  $(".hint", item).textContent = `${about(video)} · ${state}`;
  $("progress", item).value = video.progress;
  if (video.status === "in_progress") preview(video.id, $("img", item)).catch((error) => say(error.message));
}

async function preview(id, image) {
  const answer = await call(`v1/videos/${id}/content?variant=preview`);
  if (answer.status === 204) return; // none yet
  const old = image.src;
  image.src = URL.createObjectURL(await answer.blob());
  image.hidden = false;
  if (old) URL.revokeObjectURL(old);
}

async function remove(id, element) {
  await call(`v1/videos/${id}`, { method: "DELETE" });
  element.remove();
  running.delete(id);
  shown.delete(id);
  counted();
}

function look() {
  counted();
  if (!timer && running.size) timer = setTimeout(poll, POLL_MS);
}

async function poll() {
  for (const [id, item] of [...running]) {
    try {
      const video = await get(`v1/videos/${id}`);
      if (video.status === "queued" || video.status === "in_progress") progressed(video, item);
      else finished(video, item);
    } catch (error) {
      if (error.status === 404) { item.remove(); running.delete(id); } else say(error.message);
    }
  }
  timer = null;
  look();
}

function finished(video, item) {
  if (video.status === "completed") {
    item.remove();
    running.delete(video.id);
    display(video, true);
    return;
  }
  running.delete(video.id);
  $("progress", item).remove();
  const why = $(".hint", item);
  why.className = "bad";
  why.textContent = video.error?.message ?? video.status;
  const button = $("button", item);
  button.textContent = "Remove";
  button.disabled = false;
}

// The gallery

function about(video) {
  const own = video.settings;
  const length = Number(video.seconds) ? `${video.seconds} s at ${own.fps} fps` : "picture";
  return [own.mode.replaceAll("_", " "), video.size, length, `seed ${own.seed}`, `${own.steps} steps`, `guidance ${own.guidance}`, video.model].join(" · ");
}

function display(video, first) {
  if (shown.has(video.id)) return;
  shown.add(video.id);
  const figure = $("#done").content.cloneNode(true).firstElementChild;
  const isVideo = Number(video.seconds) > 0;
  $(".words", figure).textContent = video.prompt;
  $(".hint", figure).textContent = about(video);
  $("img", figure).alt = video.prompt;
  $("img", figure).src = `${here(video.url)}&variant=thumbnail`;
  $(".still", figure).onclick = () => act(() => view(video.id, isVideo));
  const tasks = {
    download: () => download(video, isVideo), again: () => again(video), extend: () => extend(video),
    delete: () => remove(video.id, figure),
  };
  for (const button of figure.querySelectorAll("[data-do]")) {
    button.onclick = () => act(tasks[button.dataset.do], button);
  }
  $("[data-do=extend]", figure).hidden = !isVideo || !modes.some((mode) => mode.id === "extend_forward");
  if (first) $("#gallery").prepend(figure); else $("#gallery").append(figure);
  counted();
}

// Addresses of files are valid for an hour, and from the root of the service.
const here = (url) => url.replace(/^\//, "");

async function fresh(id) { return here((await get(`v1/videos/${id}`)).url); }

async function view(id, isVideo) {
  const media = document.createElement(isVideo ? "video" : "img");
  media.src = await fresh(id);
  if (isVideo) Object.assign(media, { controls: true, loop: true, autoplay: true, muted: true, playsInline: true });
  $("#viewer div").replaceChildren(media);
  $("#viewer").showModal();
  $("#viewer").onclose = () => $("#viewer div").replaceChildren();
}

async function download(video, isVideo) {
  Object.assign(document.createElement("a"), {
    href: await fresh(video.id), download: `${video.id}.${isVideo ? "mp4" : "png"}`,
  }).click();
}

async function again(video) {
  queued(await post(`v1/videos/${video.id}/remix`, { prompt: video.prompt, seed: anySeed() }));
  $("#queue").scrollIntoView({ block: "nearest" });
}

function extend(video) {
  source = video;
  ask.prompt.value = video.prompt;
  ask.mode.value = "extend_forward";
  ask.size.value = video.size;
  ask.seconds.value = 2 * Number(video.seconds);
  ask.fps.value = video.settings.fps;
  chooseMode();
  ask.prompt.focus();
  ask.scrollIntoView({ block: "start" });
}

async function older() {
  const page = await get(`v1/videos?limit=${PAGE}${oldest ? `&after=${oldest}` : ""}`);
  for (const video of page.data) {
    if (video.status === "completed") display(video, false);
    else queued(video, false);
    if (video.status === "failed") finished(video, running.get(video.id));
  }
  oldest = page.last_id;
  $("#older").hidden = !page.has_more;
}

function counted() {
  $("#idle").hidden = $("#queue").childElementCount > 0;
  $("#empty").hidden = $("#gallery").childElementCount > 0;
}

// The rest

async function act(task, button) {
  if (button) button.disabled = true;
  try { await task(); } catch (error) { say(error.message); } finally { if (button) button.disabled = false; }
}

function askKey() {
  const dialog = $("#ask-key");
  if (dialog.open) return;
  dialog.returnValue = "";
  dialog.showModal();
}

$("#ask-key form").onsubmit = () => {
  localStorage.setItem("vitascope-key", $("#ask-key input").value.replace(/[^!-~]/g, ""));
  setTimeout(() => location.reload());
};
$("#key").onclick = askKey;
$("#older").onclick = () => act(older, $("#older"));
$("#viewer > button").onclick = () => $("#viewer").close();
ask.onsubmit = submit;
ask.mode.onchange = chooseMode;
ask.model.onchange = chooseModel;

act(async () => {
  models = (await get("v1/models")).data;
  options(ask.model, models.map((model) => [model.id]), models[0].id);
  ask.model.parentElement.hidden = models.length < 2;
  chooseModel();
  await older();
  counted();
});
