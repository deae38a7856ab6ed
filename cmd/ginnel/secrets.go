package main

import (
	"log/slog"
	"strings"

	"github.com/spf13/pflag"

	"ginnel/configs"
)

// secretFlag is the value of a flag that holds a secret: *parsed implements it.
type secretFlag interface {
	isSecret() bool
	// plain is the secret itself, read from its file if it was given as file:PATH.
	plain() string
}

// eachSecret calls f with the flags that were given and hold a secret.
func eachSecret(fs *pflag.FlagSet, f func(*pflag.Flag, secretFlag)) {
	fs.VisitAll(func(flag *pflag.Flag) {
		if s, ok := flag.Value.(secretFlag); ok && s.isSecret() && flag.Value.String() != "" {
			f(flag, s)
		}
	})
}

// adviseSecrets warns of secrets in the arguments of this process, which every user of the machine
// can read.
func adviseSecrets(fs *pflag.FlagSet, log *slog.Logger) {
	eachSecret(fs, func(flag *pflag.Flag, _ secretFlag) {
		if givenOnCommandLine(flag) && !configs.IsSecretFile(flag.Value.String()) {
			log.Warn("other users of this machine can read a secret in the arguments of this process",
				"flag", "--"+flag.Name, "instead", "--"+flag.Name+" file:PATH, or "+envName(flag.Name)+" in the environment")
		}
	})
}

// hideSecrets moves secrets from the arguments to the environment, which only the user of the
// process can read. A secret in a file moves, too: the file may be a pipe that has been read.
func hideSecrets(fs *pflag.FlagSet, args []string) (rest []string, secrets []variable) {
	hidden := make(map[string]bool)
	eachSecret(fs, func(flag *pflag.Flag, s secretFlag) {
		if text := s.plain(); !configs.IsSecretFile(text) { // or it would be taken for the name of one
			hidden["--"+flag.Name] = true
			secrets = append(secrets, variable{envName(flag.Name), text})
		}
	})
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(rest, args[i:]...), secrets
		}
		name, _, joined := strings.Cut(args[i], "=")
		switch {
		case !hidden[name]:
			rest = append(rest, args[i])
		case !joined:
			i++ // its value is the next argument
		}
	}
	return rest, secrets
}
