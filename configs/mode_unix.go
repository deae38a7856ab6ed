//go:build unix

package configs

// modeBitsApply says whether the mode bits of a file determine who may read it.
const modeBitsApply = true
