# SPDX-License-Identifier: BSD-3-Clause
"""Takes the README's pictures of the page Kernels, from a published site.

    .venv/bin/python tools/picture.py SITE FOLDER [RELEASE]

Opens SITE/index.html in Chromium, chooses the trials in a blackhole of the first kernel whose
release begins with RELEASE (6.12), and the first of them; writes FOLDER/kernels-1280.png and
FOLDER/kernels-400.png.
"""

import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

LIMIT_S = 120
"""How long the page may take until something is on it; tenths of a second."""

LOWEST = 1500
"""Of the page that is shown; what evidence goes on below is left out."""


def main(site: Path, folder: Path, release: str) -> None:
    """Take both."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def size(width: int, height: int) -> None:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def choose(selector: str) -> None:
        waiting = WebDriverWait(driver, LIMIT_S)
        waiting.until(lambda _: driver.find_elements(By.CSS_SELECTOR, selector))
        driver.find_element(By.CSS_SELECTOR, selector).click()

    try:
        for width in (1280, 400):
            size(width, 900)
            driver.get((site.absolute() / "index.html").as_uri())
            choose(f'#matrix button[aria-label^="{release}"][aria-label*=", stop in blackhole"]')
            choose("#dots .dot")
            WebDriverWait(driver, LIMIT_S).until(
                lambda _: driver.find_elements(By.CSS_SELECTOR, "#survival .line")
            )
            height = driver.execute_script("return document.documentElement.scrollHeight")
            size(width, min(height, LOWEST))
            driver.execute_script("scrollTo(0, 0)")
            driver.save_screenshot(str(folder / f"kernels-{width}.png"))
    finally:
        driver.quit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "6.12")
