// Search runs in a Worker, which browsers refuse to pages opened from disk. There this stands in for
// it: the script runs in a hidden frame, and messages pass between the two.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.ready = new Promise((resolve) => {
        frame.onload = () => resolve(frame.contentWindow);
      });
      const inner = frame.contentDocument;
      inner.open();
      inner.write("<script>postMessage = (data) => parent.postMessage(data, '*')</scr" + "ipt>");
      inner.write(`<script src="${new URL(url, location).href}"></scr` + "ipt>");
      inner.close();
      window.addEventListener("message", (event) => {
        if (event.source === frame.contentWindow) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        }
      });
    }

    postMessage(data) {
      this.ready.then((inner) => inner.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
