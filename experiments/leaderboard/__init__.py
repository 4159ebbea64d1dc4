"""The leaderboard: every rule, alone and behind mixings, against every attack."""
