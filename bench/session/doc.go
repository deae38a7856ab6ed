// Package session is what the commands that compare contenders share: flags, the namespace they run
// in, and the files they write.
package session
