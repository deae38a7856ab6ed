package server

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
)

// Secrets are shown once, when they are made. Only a plain hash is stored, which suffices
// because random secrets cannot be guessed.
const (
	authKeyPrefix = "ginnel-auth-"
	tokenPrefix   = "ginnel-api-"
	secretBytes   = 24
)

func newSecret(prefix string) string { return prefix + randomHex(secretBytes) }

func hashSecret(s string) [32]byte { return sha256.Sum256([]byte(s)) }

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
