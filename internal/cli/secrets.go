package cli

import (
	"errors"
	"log/slog"

	"github.com/spf13/pflag"

	"ginnel/configs"
)

// SecretFlag is the value of a flag that holds a secret: *Parsed implements it.
type SecretFlag interface {
	IsSecret() bool
	// Plain returns the secret itself, also if it was given as file:PATH.
	Plain() string
}

// EachSecret calls f for each flag that is a secret and has a value.
func EachSecret(fs *pflag.FlagSet, f func(*pflag.Flag, SecretFlag)) {
	fs.VisitAll(func(flag *pflag.Flag) {
		if s, ok := flag.Value.(SecretFlag); ok && s.IsSecret() && flag.Value.String() != "" {
			f(flag, s)
		}
	})
}

// AdviseSecrets warns of secrets in the arguments of this process, because every user of the
// machine can read those.
func AdviseSecrets(fs *pflag.FlagSet, log *slog.Logger) {
	EachSecret(fs, func(flag *pflag.Flag, _ SecretFlag) {
		if GivenOnCommandLine(flag) && !configs.IsSecretFile(flag.Value.String()) {
			log.Warn("other users of this machine can read a secret in the arguments of this process",
				"flag", "--"+flag.Name, "instead", "--"+flag.Name+" file:PATH, or "+EnvName(flag.Name)+" in the environment")
		}
	})
}

// SecretText is a secret that was given as it is, or in a file by file:PATH.
type SecretText string

// Plain returns the secret.
func (s SecretText) Plain() string { return string(s) }

// ParseSecret reads a secret that is given as it is, or as file:PATH. It must not be empty.
func ParseSecret(s string) (SecretText, error) {
	text, err := configs.Secret(s)
	if err == nil && text == "" {
		err = errors.New("(not shown): it is empty")
	}
	return SecretText(text), err
}
