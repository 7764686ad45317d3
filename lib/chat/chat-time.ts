/** The function `strftime_now` of chat templates: the local time, as Python spells it. */

const days = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const months = [
  ...['January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September'],
  ...['October', 'November', 'December'],
];

const pad = (value: number, width = 2) => String(value).padStart(width, '0');
const hour = (date: Date) => date.getHours() % 12 || 12;

const directives: Readonly<Record<string, (date: Date) => string>> = {
  a: (date) => (days[date.getDay()] as string).slice(0, 3),
  A: (date) => days[date.getDay()] as string,
  b: (date) => (months[date.getMonth()] as string).slice(0, 3),
  B: (date) => months[date.getMonth()] as string,
  d: (date) => pad(date.getDate()),
  H: (date) => pad(date.getHours()),
  I: (date) => pad(hour(date)),
  m: (date) => pad(date.getMonth() + 1),
  M: (date) => pad(date.getMinutes()),
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  S: (date) => pad(date.getSeconds()),
  y: (date) => pad(date.getFullYear() % 100),
  Y: (date) => String(date.getFullYear()),
  '%': () => '%',
};

/** `%-d` is `%d` without the zero in front. @throws Error for a directive that is not known */
export function strftime(date: Date, format: string): string {
  return format.replace(/%(-?)(.?)/gs, (whole, bare: string, letter: string) => {
    const write = directives[letter];
    if (!write) throw new Error(`strftime_now does not know ${JSON.stringify(whole)}`);
    const text = write(date);
    return bare ? text.replace(/^0(?=.)/, '') : text;
  });
}
