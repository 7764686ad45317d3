/** Numbers and policies for people to read. */
import type { CachePolicy } from '../../types/api.js';

/** 1234567 as `1,234,567`. */
export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** A number and its noun. */
export function many(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** Bytes in binary units, three digits. */
export function bytes(value: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let scaled = value;
  // 1023.9 would be shown as 1024.
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1024;
    ++unit;
  }
  return `${unit === 0 ? scaled : digits(scaled)} ${units[unit]}`;
}

function digits(value: number): string {
  return value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0);
}

/** `part` of `whole` in percent. */
export function percent(part: number, whole: number): string {
  return whole === 0 ? '-' : `${((100 * part) / whole).toFixed(1)} %`;
}

/** Numbers as `0, 8 and 9-15`: runs of three and more are drawn together. */
export function numbers(values: readonly number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < values.length; ) {
    let end = i;
    while (values[end + 1] === (values[end] as number) + 1) ++end;
    const isRun = end - i >= 2;
    parts.push(isRun ? `${values[i]}-${values[end]}` : String(values[i]));
    i = isRun ? end + 1 : i + 1;
  }
  const last = parts.pop() ?? 'none';
  return parts.length === 0 ? last : `${parts.join(', ')} and ${last}`;
}

/** The dense layers of a policy with every default filled in. */
export function denseLayers(policy: CachePolicy, layers: number): number[] {
  const all = Array.from({ length: layers }, (_, layer) => layer);
  switch (policy.kind) {
    case 'full':
      return all;
    case 'ansan':
      return [];
    case 'window':
      return [...(policy.denseLayers ?? [])].sort((a, b) => a - b);
    case 'anchor': {
      const { per, denseLayers: listed } = policy;
      if (listed) return [...listed].sort((a, b) => a - b);
      return typeof per === 'number' ? all.filter((layer) => layer % per === 0) : [];
    }
  }
}

/** A policy with every default filled in, in a few words. */
export function describePolicy(policy: CachePolicy, layers: number): string {
  const dense = `dense layers: ${numbers(denseLayers(policy, layers))} of ${layers}`;
  switch (policy.kind) {
    case 'full':
      return 'full: every row of every layer';
    case 'ansan':
      return "ansan: anchors and the open line in every layer, AnLLM's mask";
    case 'window': {
      const sinks = many(policy.sinks ?? 0, 'sink');
      return `window: the last ${count(policy.size)} tokens, ${sinks}; ${dense}`;
    }
    case 'anchor':
      return `anchor: ${keptWords(policy).join(', ')}; ${dense}${sourceWords(policy, layers)}`;
  }
}

function keptWords(policy: Extract<CachePolicy, { kind: 'anchor' }>): string[] {
  const { line = true, window = 0, sinks = 1 } = policy;
  const words = ['anchors'];
  if (line) words.push('the open line');
  if (window > 0) words.push(`the last ${count(window)} tokens`);
  if (sinks !== 1) words.push(many(sinks, 'sink'));
  return words;
}

function sourceWords(policy: Extract<CachePolicy, { kind: 'anchor' }>, layers: number): string {
  const { sourceLayer, consumersAbove } = policy;
  if (typeof sourceLayer !== 'number') return '';
  const first = (consumersAbove ?? sourceLayer) + 1;
  const consumers = numbers(Array.from({ length: layers - first }, (_, i) => first + i));
  return `; source layer ${sourceLayer} for ${consumers}`;
}

/** Columns of texts, each as wide as its widest; `right`: columns that end together. */
export function table(rows: readonly (readonly string[])[], right: readonly number[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length);
    });
  }
  const line = (row: readonly string[]) =>
    row
      .map((cell, i) => (right.includes(i) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd();
  return `${rows.map(line).join('\n')}\n`;
}
