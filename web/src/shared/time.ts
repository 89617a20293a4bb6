// Durations and moments in words.

/** 3 s, 4 min 10 s, 2 h 5 min, 3 d 4 h. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 ? `${minutes} min ${whole % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

/** The time left, in steps that do not flicker: "about 3 min", "a few seconds". */
export function eta(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  if (seconds < 5) return "a few seconds left";
  if (seconds < 60) return `about ${Math.ceil(seconds / 5) * 5} s left`;
  if (seconds < 600) return `about ${duration(Math.round(seconds / 10) * 10)} left`;
  return `about ${duration(Math.round(seconds / 60) * 60)} left`;
}

export function ago(at: string, now = Date.now()): string {
  return `${duration((now - Date.parse(at)) / 1000)} ago`;
}

export function moment(at: string): string {
  return new Date(at).toLocaleString();
}
