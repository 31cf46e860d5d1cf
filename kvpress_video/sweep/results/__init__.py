"""Result rows and the SQLite store that holds them."""
