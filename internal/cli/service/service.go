package service

import "time"

// DrainTime is how long a relay that is told to end waits for its clients to be told.
const DrainTime = 5 * time.Second
