"""An ordinary Django site with its admin, set up as one is that stands behind a TLS proxy; WSGI and ASGI."""

import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse

settings.configure(
    SECRET_KEY="of the tests",
    ALLOWED_HOSTS=["shop.test"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DJANGO_DATABASE"]}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    STATIC_URL="/static/",
    SECURE_SSL_REDIRECT=True,
    SESSION_COOKIE_SECURE=True,
    CSRF_COOKIE_SECURE=True,
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    USE_X_FORWARDED_HOST=True,
)
django.setup()
call_command("migrate", verbosity=0)

from django.contrib import admin  # noqa: E402 - it wants what is set up above
from django.contrib.auth.models import User  # noqa: E402
from django.urls import path  # noqa: E402

if not User.objects.exists():
    User.objects.create_superuser("ada", password="lovelace")


def facts(request):
    return JsonResponse(
        {
            "url": request.build_absolute_uri(),
            "secure": request.is_secure(),
            "host": request.get_host(),
            "client": request.META["REMOTE_ADDR"],
            "forwarded": sorted(name for name in request.META if name.startswith("HTTP_X_")),
        }
    )


urlpatterns = [path("admin/", admin.site.urls), path("facts", facts)]
wsgi = get_wsgi_application()
asgi = get_asgi_application()
