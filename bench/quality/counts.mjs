// Sums of verdicts, for tables. A verdict is an object of numbers (1: yes).

/**
 * A row of each group and case. `groups` are names and what belongs there, `verdicts` of each case
 * one of each item. The case `both` tells where the two models agree: what both have right is the
 * smaller of the two.
 */
export function countRows(items, { anchored, twin, ...others }, groups, column) {
  const both = anchored.map((one, i) => smaller(one, twin[i]));
  const cases = Object.entries({ anchored, twin, both, ...others });
  return Object.entries(groups).flatMap(([group, isOne]) => {
    if (!items.some(isOne)) return [];
    return cases.map(([name, verdicts]) => {
      const chosen = verdicts.filter((_, i) => isOne(items[i]));
      return { [column]: group, case: name, ...sum(chosen) };
    });
  });
}

function smaller(one, other) {
  const entries = Object.entries(one);
  return Object.fromEntries(entries.map(([key, value]) => [key, Math.min(value, other[key])]));
}

function sum(verdicts) {
  const total = {};
  for (const verdict of verdicts) {
    for (const [key, value] of Object.entries(verdict)) total[key] = (total[key] ?? 0) + value;
  }
  return total;
}

/** (cases) what `judge` makes of each case's outputs. */
export function judgeCases(outputs, judge) {
  return Object.fromEntries(Object.entries(outputs).map(([name, list]) => [name, judge(list)]));
}

export const languages = {
  Python: ({ language }) => language === 'py',
  'TypeScript, JavaScript': ({ language }) => language !== 'py',
};
