// What every page does. Pages work without it.
export {};
