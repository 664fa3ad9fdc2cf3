"""A trained model in use: tables of users in, recommendations out."""
