// What a browser makes of the pages in this file's frames; written into the element `out`.
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => audit(frame.contentWindow));
  document.getElementById("out").textContent = JSON.stringify(found);
};
