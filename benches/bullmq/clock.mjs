/** Microseconds on the monotonic clock, which all processes of a machine share. */
export const micros = () => Number(process.hrtime.bigint() / 1000n);
