// Package session is what the comparing commands share: flags, the network namespace they run in,
// and the files they write.
package session
