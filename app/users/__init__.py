"""Who the users are, and the file that keeps them. It knows no request; the database's users are in `app.state`."""

from app.users.user import HASH_METHOD, MANAGE, PREDICT, PROXY, ROLES, Token, User, has_control_characters
from app.users.user_book import UserBook
from app.users.users_file import USERS_FILE, UsersFile

__all__ = [
    "HASH_METHOD",
    "MANAGE",
    "PREDICT",
    "PROXY",
    "ROLES",
    "USERS_FILE",
    "Token",
    "User",
    "UserBook",
    "UsersFile",
    "has_control_characters",
]
