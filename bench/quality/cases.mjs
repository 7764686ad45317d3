// What is measured: sessions by name, and their titles in plots. A case names its model (`of`). It
// is given the text, what the model is (`info`), and the rows that another case, `sized`, held at
// the text's end, so that it can be made to hold as many.

const sinks = 4;

export const titles = {
  twin: 'twin, full mask',
  'twin-int8': 'twin, full mask, int8 rows',
  anchored: 'anchored model',
  'anchored-int8': 'anchored model, int8 rows',
  'anchored-no-dense': 'anchored model, dense layers cut off',
  'twin-anchors': "twin under the anchored model's layout",
  'twin-window': 'twin, window and sinks in all layers',
  'twin-window-int8': 'twin, a wider window and sinks, int8 rows',
  'twin-window-dense': 'twin, window, sinks, the same dense layers',
  'twin-ansan': "twin under AnLLM's mask",
  full: 'full cache',
  'full-int8': 'full cache, int8 rows',
  anchors: 'anchors, window, chosen dense layers',
  'anchors-int8': 'anchors, window, chosen dense layers, int8 rows',
  'anchors-even': 'anchors, window, as many dense layers evenly',
  'anchors-no-dense': 'anchors, a wider window, no dense layers',
  window: 'window and sinks in all layers',
  'window-int8': 'a wider window and sinks, int8 rows',
  'window-dense': 'window, sinks, the chosen dense layers',
  ansan: "AnLLM's mask",
};

/** Control tokens of the shipped model; all are anchors. */
const tokens = [0, 1, 2, 3];

/** A model that was trained for anchors, and the same model with a full mask. */
export const twinCases = {
  reference: 'twin',
  sized: 'anchored',
  cases: {
    twin: () => ({ of: 'twin', policy: { kind: 'full' } }),
    'twin-int8': () => ({ of: 'twin', policy: { kind: 'full' }, cacheType: 'int8' }),
    anchored: () => ({ of: 'anchored' }),
    'anchored-int8': () => ({ of: 'anchored', cacheType: 'int8' }),
    'anchored-no-dense': () => ({ of: 'anchored', policy: { kind: 'anchor', per: 'none' } }),
    'twin-anchors': () => ({
      of: 'twin',
      policy: { kind: 'anchor', tokens, denseLayers: [0, 8] },
    }),
    'twin-window': (held) => ({ of: 'twin', policy: windowPolicy(held) }),
    'twin-window-int8': (held) => ({ of: 'twin', ...wideWindow(held) }),
    'twin-window-dense': (held) => ({ of: 'twin', policy: windowPolicy(held, [0, 8]) }),
    'twin-ansan': () => ({ of: 'twin', policy: { kind: 'ansan', tokens: tokens.slice(1) } }),
  },
};

/** One model that was not trained for anchors: its newlines are the anchors. */
export function trainingFreeCases(denseLayers, window) {
  const anchors = { kind: 'anchor', tokens: 'newline', window };
  return {
    reference: 'full',
    sized: 'anchors',
    cases: {
      full: () => ({ of: 'model', policy: { kind: 'full' } }),
      'full-int8': () => ({ of: 'model', policy: { kind: 'full' }, cacheType: 'int8' }),
      anchors: () => ({ of: 'model', policy: { ...anchors, denseLayers } }),
      'anchors-int8': () => ({
        of: 'model',
        policy: { ...anchors, denseLayers },
        cacheType: 'int8',
      }),
      'anchors-even': ({ info }) => ({
        of: 'model',
        policy: { ...anchors, per: Math.ceil(info.layers / denseLayers.length) },
      }),
      'anchors-no-dense': (held) => ({
        of: 'model',
        policy: { ...anchors, per: 'none', window: neighbours(held) },
      }),
      window: (held) => ({ of: 'model', policy: windowPolicy(held) }),
      'window-int8': (held) => ({ of: 'model', ...wideWindow(held) }),
      'window-dense': (held) => ({ of: 'model', policy: windowPolicy(held, denseLayers) }),
      ansan: () => ({ of: 'model', policy: { kind: 'ansan', tokens: 'newline' } }),
    },
  };
}

/** A window that holds as many rows as were held, the dense layers' among them. */
function windowPolicy({ rows, info, text }, denseLayers = []) {
  const dense = denseLayers.length;
  const perLayer = (rows - dense * text.input.length) / (info.layers - dense);
  const size = Math.max(1, Math.round(perLayer) - sinks);
  return { kind: 'window', size, sinks, denseLayers };
}

/** A window of int8 rows that take as many bytes as the rows that were held. */
function wideWindow(held) {
  const { kvHeads, headDim } = held.info;
  const rowBytes = 2 * kvHeads * (headDim + 4); // and a scale for each key and value
  const rows = (held.rows * held.rowBytes) / rowBytes;
  return { policy: windowPolicy({ ...held, rows }), cacheType: 'int8' };
}

/** Neighbours that, with the anchors above them, make up as many rows as were held. */
function neighbours({ rows, info, text }) {
  const { length } = text.input;
  const isKept = (at) => at === 0 || text.isControl(at) || text.isNewline(at);
  let above = text.input.reduce((count, _, at) => count + Number(isKept(at)), 0);
  let window = 0;
  while (window < length && above + window < rows / info.layers) {
    window += 1;
    if (isKept(length - window)) above -= 1;
  }
  return Math.max(1, window);
}
