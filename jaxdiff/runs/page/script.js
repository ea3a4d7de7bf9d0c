for (const slider of document.querySelectorAll('.slider')) {
  const input = slider.querySelector('input');
  const move = () => slider.style.setProperty('--at', input.value + '%');
  input.addEventListener('input', move);
  move();
}
for (const choice of document.querySelectorAll('.choice')) {
  const section = choice.closest('section'), select = choice.querySelector('select');
  const show = () => {
    const { src, alt } = section.querySelectorAll('.choosable')[select.selectedIndex];
    section.querySelectorAll('.after').forEach(image => Object.assign(image, { src, alt }));
    section.querySelectorAll('.after-label').forEach(label => { label.textContent = alt; });
  };
  select.addEventListener('change', show);
  choice.hidden = false;
  show();
}
