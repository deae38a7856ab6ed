package nodecmd

import (
	"strings"

	"github.com/spf13/pflag"

	"ginnel/configs"
	"ginnel/internal/cli"
	"ginnel/internal/cli/proxyenv"
)

// hideSecrets moves secrets from the arguments to the environment, which only the user of the
// process can read. A secret in a file moves, too: the file may be a pipe that has been read.
func hideSecrets(fs *pflag.FlagSet, args []string) (rest []string, secrets []proxyenv.Variable) {
	hidden := make(map[string]bool)
	cli.EachSecret(fs, func(flag *pflag.Flag, s cli.SecretFlag) {
		if text := s.Plain(); !configs.IsSecretFile(text) { // which would be read as file:PATH
			hidden["--"+flag.Name] = true
			secrets = append(secrets, proxyenv.Variable{Name: cli.EnvName(flag.Name), Value: text})
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
