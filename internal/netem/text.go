package netem

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse parses the format of [Config.String]: fields separated by commas or spaces, in any order.
//
//	delay=33ms,jitter=1ms,loss=0.1%,burst=3,reorder=1%,late=4ms,rate=300Mbit,queue=2500kB,max=1400
//
// Rates are in bit/s, with kbit, Mbit or Gbit; lengths in bytes, with kB or MB.
func Parse(text string) (Config, error) {
	var c Config
	for field := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ' ' }) {
		name, value, ok := strings.Cut(field, "=")
		if !ok {
			return c, fmt.Errorf("netem: %q is not name=value", field)
		}
		var err error
		switch name {
		case "delay":
			c.Delay, err = time.ParseDuration(value)
		case "jitter":
			c.Jitter, err = time.ParseDuration(value)
		case "late":
			c.ReorderDelay, err = time.ParseDuration(value)
		case "loss":
			c.Loss, err = parsePercent(value)
		case "reorder":
			c.Reorder, err = parsePercent(value)
		case "burst":
			c.Burst, err = strconv.ParseFloat(value, 64)
		case "rate":
			c.Rate, err = parseUnit(value, rateUnits)
		case "queue":
			var n int64
			n, err = parseUnit(value, byteUnits)
			c.Queue = int(n)
		case "max":
			c.MaxPacket, err = strconv.Atoi(value)
		default:
			return c, fmt.Errorf("netem: unknown field %q", name)
		}
		if err != nil {
			return c, fmt.Errorf("netem: parsing %q: %w", field, err)
		}
	}
	return c, c.check()
}

func (c *Config) check() error {
	for name, fraction := range map[string]float64{"loss": c.Loss, "reorder": c.Reorder} {
		if fraction < 0 || fraction >= 1 {
			return fmt.Errorf("netem: %s=%v%% is not between 0 and 100", name, 100*fraction)
		}
	}
	if c.Delay < 0 || c.Jitter < 0 || c.ReorderDelay < 0 || c.Rate < 0 || c.Queue < 0 || c.MaxPacket < 0 || c.Burst < 0 {
		return fmt.Errorf("netem: a value of %v is negative", c)
	}
	return nil
}

// String returns the fields that are not zero, in the format of [Parse].
func (c Config) String() string {
	var fields []string
	add := func(set bool, name, value string) {
		if set {
			fields = append(fields, name+"="+value)
		}
	}
	percent := func(f float64) string { return strconv.FormatFloat(100*f, 'g', 6, 64) + "%" }
	add(c.Delay > 0, "delay", c.Delay.String())
	add(c.Jitter > 0, "jitter", c.Jitter.String())
	add(c.Loss > 0, "loss", percent(c.Loss))
	add(c.Burst > 0, "burst", strconv.FormatFloat(c.Burst, 'g', -1, 64))
	add(c.Reorder > 0, "reorder", percent(c.Reorder))
	add(c.ReorderDelay > 0, "late", c.ReorderDelay.String())
	add(c.Rate > 0, "rate", formatUnit(c.Rate, rateUnits))
	add(c.Queue > 0, "queue", formatUnit(int64(c.Queue), byteUnits))
	add(c.MaxPacket > 0, "max", strconv.Itoa(c.MaxPacket))
	return strings.Join(fields, ",")
}

type unit struct {
	name string
	size int64
}

// Units of rates and lengths, largest first.
var (
	rateUnits = []unit{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}
	byteUnits = []unit{{"MB", 1e6}, {"kB", 1e3}, {"B", 1}}
)

func parseUnit(text string, units []unit) (int64, error) {
	for _, u := range units {
		if number, ok := strings.CutSuffix(text, u.name); ok {
			f, err := strconv.ParseFloat(number, 64)
			return int64(f * float64(u.size)), err
		}
	}
	return strconv.ParseInt(text, 10, 64)
}

func formatUnit(n int64, units []unit) string {
	for _, u := range units {
		if n%u.size == 0 {
			return strconv.FormatInt(n/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func parsePercent(text string) (float64, error) {
	number, ok := strings.CutSuffix(text, "%")
	f, err := strconv.ParseFloat(number, 64)
	if ok {
		f /= 100
	}
	return f, err
}
